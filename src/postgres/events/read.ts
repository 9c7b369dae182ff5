/**
 * Reading events: one stream, or all in the order that the watermark allows.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { checkText } from "../../core/names.ts";
import type {
  AllPage,
  AllReadOptions,
  EventStore,
  StoredEvent,
  StreamReadOptions,
} from "../../ports/event_store.ts";
import { checkPosition, MAX_VERSION } from "../../ports/event_store_checks.ts";
import type { SqlRow, SqlValue } from "../../ports/sql.ts";
import { checkSignal, optional, type Scope, type StoreContext } from "../context.ts";
import { poll } from "../wakeup.ts";
import { horizon, type HorizonRow } from "../watermark.ts";

/** The reads of an event store. */
export function eventReads(
  context: StoreContext,
  { session, inTransaction }: Scope,
): Pick<EventStore, "readStream" | "readAll" | "head" | "has"> {
  const { schema, clock, intervals, watermark, continuity, appended } = context;

  async function readStream(
    stream: string,
    options: StreamReadOptions = {},
  ): Promise<readonly StoredEvent[]> {
    const { from, backwards = false, limit = 10_000, archived = false, signal } = options;
    checkText("stream", stream);
    if (from !== undefined) checkRange("from", from, 0, Number.MAX_SAFE_INTEGER, true);
    checkRange("limit", limit, 1, MAX_VERSION, true);
    checkSignal(signal);
    const rows = await session.query<EventRow>(readStreamSql(schema, { backwards, archived }), [
      stream,
      from === undefined ? null : Math.min(from, MAX_VERSION),
      limit,
    ]);
    return rows.map(storedEvent);
  }

  async function readAll(after: bigint, options: AllReadOptions): Promise<AllPage> {
    checkPosition("after", after);
    checkRange("limit", options.limit, 1, MAX_VERSION, true);
    if (options.category !== undefined) checkText("category", options.category);
    if (options.lane) checkRange("lane.index", options.lane.index, 0, options.lane.of - 1, true);
    let position = after;
    const look = async (): Promise<AllPage | undefined> => {
      const page = await readPage(position, options);
      position = page.position;
      return page.events.length > 0 ? page : undefined;
    };
    const waitMs = inTransaction ? 0 : options.waitMs ?? 0;
    const page = await poll(look, { clock, intervals, bell: appended, waitMs, signal: options.signal });
    return page ?? { events: [], position };
  }

  /** Looks until it finds something, or has looked as far as it may. */
  async function readPage(after: bigint, options: AllReadOptions): Promise<AllPage> {
    for (let from = after;;) {
      const page = await readWindow(from, options);
      if (page.events.length > 0 || page.position === from || page.complete) return page;
      from = page.position;
    }
  }

  async function readWindow(
    after: bigint,
    options: AllReadOptions,
  ): Promise<AllPage & { readonly complete: boolean }> {
    const filters = filterValues(options);
    const marks = watermark.values({ mayMark: !inTransaction });
    const end = filters.length > 0 ? after + WINDOW : MAX_POSITION;
    const rows = await session.query<HorizonRow & EventRow>(readAllSql(schema, options), [
      ...marks,
      after,
      options.limit,
      end,
      ...filters,
    ]);
    const [horizon] = rows;
    const safe = horizon ? watermark.learn(horizon) : 0n;
    if (horizon) await continuity.check(session, horizon, after);
    const events = rows.filter((row) => row.pos !== null).map(storedEvent);
    continuity.saw(events);
    const lookedTo = events.length === options.limit
      ? events.at(-1)?.position ?? after
      : safe < end
      ? safe
      : end;
    return { events, position: lookedTo > after ? lookedTo : after, complete: safe <= end };
  }

  async function head(): Promise<bigint> {
    const marks = watermark.values({ mayMark: !inTransaction });
    const [row] = await session.query<HorizonRow>(headSql(schema), marks);
    const safe = row ? watermark.learn(row) : 0n;
    if (!row || row.mark === null) return safe;
    // What was seen first in this statement counts from the next one on.
    const [next] = await session.query<HorizonRow>(headSql(schema), watermark.values({ mayMark: false }));
    return next ? watermark.learn(next) : safe;
  }

  async function has(stream: string, id: string): Promise<boolean> {
    const rows = await session.query(hasSql(schema), [checkText("stream", stream), id]);
    return rows.length > 0;
  }

  return { readStream, readAll, head, has };
}

/** `$1` stream, `$2` first (backwards: highest) version or null, `$3` limit. */
const readStreamSql = (
  schema: string,
  { backwards, archived }: { readonly backwards: boolean; readonly archived: boolean },
): string =>
  `select ${EVENT_COLUMNS} from ${schema}.${archived ? "events_archive" : "events"} e
where e.stream = $1::text and e.version >= (select t.first from ${schema}.streams t where t.stream = $1::text)
and e.version ${backwards ? "<=" : ">="} coalesce($2::int, ${backwards ? MAX_VERSION : 0})
order by e.version ${backwards ? "desc" : "asc"} limit $3::int`;

/**
 * So many positions one statement looks through for events that match: its time is bounded, however few there are. A
 * reader that has to catch up comes closer with each.
 */
const WINDOW = 100_000n;
const MAX_POSITION = 2n ** 63n - 1n;

/** The values that {@linkcode readAllSql} takes behind the first seven. */
function filterValues({ types, category, correlationId, since, lane }: AllReadOptions): readonly SqlValue[] {
  const prefix = category === undefined ? undefined : `${category}-`;
  return [types, prefix, correlationId, since, lane?.of, lane?.index].filter((value) => value !== undefined);
}

/**
 * `$1` to `$4` see {@linkcode horizon}; `$5` after, `$6` limit, `$7` end; then, in this order and only if given, the
 * types, the beginning of the stream's name, the correlation id, the time in milliseconds, and how many lanes there are
 * and which is wanted. At least one row comes back; without events it has nulls in their place.
 */
const readAllSql = (
  schema: string,
  { types, category, correlationId, since, lane }: AllReadOptions,
): string => {
  let next = 8;
  const filters = [
    types && `and e.type = any($${next++}::text[])`,
    category !== undefined && `and starts_with(e.stream, $${next++}::text)`,
    correlationId !== undefined && `and e.correlation_id = $${next++}::text`,
    since !== undefined && `and e.recorded_at >= to_timestamp($${next++}::float8 / 1000)`,
    lane && `and ${laneSql("e.stream")} % $${next++}::int = $${next++}::int`,
  ].filter(Boolean).join(" ");
  return `with ${horizon(`${schema}.events`)}
select h.*, e.* from horizon h left join lateral (
  select ${EVENT_COLUMNS} from ${schema}.events e
  where e.pos > $5::bigint and e.pos <= least(h.safe, $7::bigint) ${filters} order by e.pos limit $6::int
) e on true order by e.pos`;
};

/** 24 bits of SHA-256: unlike `hashtext`, the same in every version of Postgres. */
const laneSql = (stream: string): string => {
  const hash = `sha256(convert_to(${stream}, 'UTF8'))`;
  return `(get_byte(${hash}, 0) * 65536 + get_byte(${hash}, 1) * 256 + get_byte(${hash}, 2))`;
};

/** `$1` to `$4` see {@linkcode horizon}. */
const headSql = (schema: string): string => `with ${horizon(`${schema}.events`)} select * from horizon`;

/** `$1` stream, `$2` event id. */
const hasSql = (schema: string): string =>
  `select 1 from ${schema}.events where stream = $1::text and id = $2::text`;

/** The columns of {@linkcode EventRow} of a table `e`. */
export const EVENT_COLUMNS = "e.pos, e.stream, e.version, e.id, e.type, e.key, e.body";

/** An event as it is read. */
export interface EventRow extends SqlRow {
  readonly pos: string;
  readonly stream: string;
  readonly version: number;
  readonly id: string;
  readonly type: string;
  readonly key: string | null;
  readonly body: string;
}

/** The event of a row. */
export function storedEvent({ pos, stream, version, id, type, key, body }: EventRow): StoredEvent {
  return { stream, version, position: BigInt(pos), id, type, ...optional("key", key), body };
}
