/**
 * The event store on Postgres: appends in one statement, reads in an order that never changes afterwards.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkName, checkText } from "../core/names.ts";
import type {
  AllPage,
  AllReadOptions,
  AppendResult,
  EventStore,
  ExpectedVersion,
  StoredEvent,
  StreamAppend,
  StreamReadOptions,
} from "../ports/event_store.ts";
import type { SqlRow, SqlValue } from "../ports/sql.ts";
import { checkSignal, columns, optional, type Scope, type StoreContext } from "./context.ts";
import { poll } from "./wakeup.ts";
import { horizon, type HorizonRow } from "./watermark.ts";

const MAX_LIMIT = 2 ** 31 - 1;

/**
 * An event store on a session. In a transaction, {@linkcode EventStore.readAll} returns what this process already
 * knew to be final when it last read outside, and does not wait.
 */
export function eventStore(context: StoreContext, scope: Scope): EventStore {
  const { schema, clock, intervals, watermark, appended } = context;
  const { session, inTransaction, onAppend } = scope;

  async function append(appends: readonly StreamAppend[]): Promise<readonly AppendResult[]> {
    checkAppends(appends);
    const rows = await session.query<AppendRow>(appendSql(schema), appendValues(appends));
    const refused = rows.find((row) => row.refused);
    if (refused) throw conflict(appends[refused.stream_no - 1], refused.at_version);
    onAppend();
    const byStream = new Map(rows.map((row) => [row.stream_no, row]));
    return appends.map(({ stream }, index) => {
      const row = byStream.get(index + 1);
      return { stream, version: row?.at_version ?? 0, position: BigInt(row?.at_pos ?? 0) };
    });
  }

  async function readStream(
    stream: string,
    options: StreamReadOptions = {},
  ): Promise<readonly StoredEvent[]> {
    const { from, backwards = false, limit = 10_000, signal } = options;
    checkText("stream", stream);
    checkRange("limit", limit, 1, MAX_LIMIT, true);
    checkSignal(signal);
    const rows = await session.query<EventRow>(readStreamSql(schema, backwards), [
      stream,
      from ?? null,
      limit,
    ]);
    return rows.map(storedEvent);
  }

  async function readAll(after: bigint, options: AllReadOptions): Promise<AllPage> {
    checkRange("limit", options.limit, 1, MAX_LIMIT, true);
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

  async function readPage(after: bigint, options: AllReadOptions): Promise<AllPage> {
    const { types, correlationId, since, lane } = options;
    const filters = [types, correlationId, since, lane?.of, lane?.index].filter((filter) =>
      filter !== undefined
    );
    const marks = watermark.values({ mayMark: !inTransaction });
    const rows = await session.query<HorizonRow & EventRow>(readAllSql(schema, options), [
      ...marks,
      after,
      options.limit,
      ...filters,
    ]);
    const safe = rows[0] ? watermark.learn(rows[0]) : 0n;
    const events = rows.filter((row) => row.pos !== null).map(storedEvent);
    const lookedTo = events.length === options.limit ? events.at(-1)?.position ?? after : safe;
    return { events, position: lookedTo > after ? lookedTo : after };
  }

  async function head(): Promise<bigint> {
    const marks = watermark.values({ mayMark: !inTransaction });
    const [row] = await session.query<HorizonRow>(headSql(schema), marks);
    return row ? watermark.learn(row) : 0n;
  }

  async function has(stream: string, id: string): Promise<boolean> {
    const rows = await session.query(hasSql(schema), [checkText("stream", stream), id]);
    return rows.length > 0;
  }

  return { append, readStream, readAll, head, has };
}

/**
 * Calls the function `append` of migration 1. `$1` to `$3` have one element per stream (name, expected version with
 * -1 for any and -2 for exists, number of events), `$4` to `$11` one per event (number of its stream, number in its
 * stream, id, type, key, correlation id, topic, body).
 */
const appendSql = (schema: string): string =>
  `select * from ${schema}.append($1::text[], $2::int[], $3::int[], $4::int[], $5::int[], $6::text[], $7::text[],
  $8::text[], $9::text[], $10::text[], $11::text[])`;

/** `$1` stream, `$2` first (backwards: highest) version or null, `$3` limit. */
const readStreamSql = (schema: string, backwards: boolean): string =>
  `select ${EVENT_COLUMNS} from ${schema}.events e
where e.stream = $1::text and e.version ${backwards ? "<=" : ">="} coalesce($2::int, ${
    backwards ? MAX_LIMIT : 0
  })
order by e.version ${backwards ? "desc" : "asc"} limit $3::int`;

/**
 * `$1` to `$4` see {@linkcode horizon}; `$5` after, `$6` limit; then, in this order and only if given, the types, the
 * correlation id, the time in milliseconds, and how many lanes there are and which is wanted. At least one row comes back; without events it has nulls in their place.
 */
const readAllSql = (schema: string, { types, correlationId, since, lane }: AllReadOptions): string => {
  let next = 7;
  const filters = [
    types && `and e.type = any($${next++}::text[])`,
    correlationId !== undefined && `and e.correlation_id = $${next++}::text`,
    since !== undefined && `and e.recorded_at >= to_timestamp($${next++}::float8 / 1000)`,
    lane && `and ${laneSql("e.stream")} % $${next++}::int = $${next++}::int`,
  ].filter(Boolean).join(" ");
  return `with ${horizon(`${schema}.events`)}
select h.*, e.* from horizon h left join lateral (
  select ${EVENT_COLUMNS} from ${schema}.events e
  where e.pos > $5::bigint and e.pos <= h.safe ${filters} order by e.pos limit $6::int
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

const EVENT_COLUMNS = "e.pos, e.stream, e.version, e.id, e.type, e.key, e.body";

interface AppendRow extends SqlRow {
  readonly stream_no: number;
  readonly refused: boolean;
  readonly at_version: number;
  readonly at_pos: string;
}

interface EventRow extends SqlRow {
  readonly pos: string;
  readonly stream: string;
  readonly version: number;
  readonly id: string;
  readonly type: string;
  readonly key: string | null;
  readonly body: string;
}

function storedEvent({ pos, stream, version, id, type, key, body }: EventRow): StoredEvent {
  return { stream, version, position: BigInt(pos), id, type, ...optional("key", key), body };
}

function appendValues(appends: readonly StreamAppend[]): SqlValue[] {
  const events = appends.flatMap(({ events }, index) =>
    events.map((event, at) => ({ ...event, owner: index + 1, offset: at + 1 }))
  );
  return [
    ...columns(
      appends,
      ({ stream }) => stream,
      ({ expected }) => expectedNumber(expected),
      ({ events }) => events.length,
    ),
    ...columns(
      events,
      ({ owner }) => owner,
      ({ offset }) => offset,
      ({ id }) => id,
      ({ type }) => type,
      ({ key }) => key,
      ({ correlationId }) => correlationId,
      ({ topic }) => topic,
      ({ body }) => body,
    ),
  ];
}

function expectedNumber(expected: ExpectedVersion): number {
  if (typeof expected === "number") return expected;
  return { any: -1, exists: -2, none: 0 }[expected];
}

function checkAppends(appends: readonly StreamAppend[]): void {
  if (appends.length === 0) throw invalid("nothing", "expected at least one stream");
  const streams = new Set<string>();
  for (const { stream, expected, events } of appends) {
    checkText("stream", stream);
    if (streams.has(stream)) throw invalid(describe(stream), "expected each stream once");
    streams.add(stream);
    checkExpected(stream, expected);
    if (events.length === 0) throw invalid(describe(stream), "expected at least one event");
    const ids = new Set<string>();
    for (const { id, type, key, topic, correlationId } of events) {
      if (ids.has(checkText("event id", id, 512))) {
        throw invalid(describe(stream), `expected event id ${describe(id)} once`);
      }
      ids.add(id);
      checkText("event type", type, 512);
      if (key !== undefined) checkText("key", key, 512);
      if (topic !== undefined) checkName("topic", topic);
      if (correlationId !== undefined) checkText("correlation id", correlationId, 512);
    }
  }
}

function checkExpected(stream: string, expected: ExpectedVersion): void {
  if (expected === "any" || expected === "none" || expected === "exists") return;
  if (Number.isInteger(expected) && expected >= 0 && expected <= MAX_LIMIT) return;
  throw invalid(
    describe(stream),
    `expected a version from 0, "any", "none" or "exists", got ${describe(expected)}`,
  );
}

function invalid(what: string, why: string): MillstreamError {
  return new MillstreamError("INVALID_ARGUMENT", `Cannot append to ${what}: ${why}`);
}

function conflict(append: StreamAppend | undefined, current: number): MillstreamError {
  const { stream = "", expected = "any" } = append ?? {};
  const wanted = typeof expected === "number" ? `version ${expected}` : `"${expected}"`;
  return new MillstreamError(
    "CONCURRENCY_CONFLICT",
    `Cannot append to ${describe(stream)}: expected ${wanted}, got version ${current}`,
    { details: { stream, expected, current } },
  );
}
