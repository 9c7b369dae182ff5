/**
 * Appends on Postgres: the event store against a single statement on postgres.js that calls a hand-written function,
 * on the same tables and as many connections.
 *
 * The function by hand does the least that an event store must: move the stream's version as expected, and insert the
 * events. It has no idempotency by event id, no outbox, and takes one stream only.
 *
 * @module
 */
import postgresJs from "postgres";
import type { EncodedMessage } from "../mod.ts";
import { postgres } from "../src/postgres/mod.ts";
import { inBatches, makeEvents } from "./events.ts";
import { type Measured, type Prepared, type Question, timed, verify } from "./harness.ts";

const CONNECTIONS = 8;

/** One way to append to a stream that has `expected` events. Returns the stream's version after it. */
type Append = (stream: string, expected: number, events: readonly EncodedMessage[]) => Promise<number>;

/** How much to append, and how. */
interface Load {
  readonly callers: number;
  readonly events: number;
  readonly perAppend: number;
}

/**
 * The questions on the server at `url`, in schemas of their own that are dropped on disposal.
 *
 * @param scale Events per run: 1 for a complete measurement, less for a quick look.
 */
export async function preparePostgres(url: string, scale: number): Promise<Prepared> {
  const sql = postgresJs(url, { max: CONNECTIONS, onnotice: () => {} });
  const schema = `bench_${crypto.randomUUID().slice(0, 8)}`;
  const [own, byHand] = [schema, `${schema}_raw`];
  const store = postgres({ url, schema: own, max: CONNECTIONS });
  const dispose = async (): Promise<void> => {
    await store[Symbol.asyncDispose]();
    await sql.unsafe(`drop schema if exists ${own}, ${byHand} cascade`);
    await sql.end();
  };

  try {
    await store.start();
    await makeTables(url, byHand);
    await sql.unsafe(APPEND_BY_HAND(byHand));
    const millstreamAppend: Append = async (stream, expected, events) => {
      const [result] = await store.events.append([{ stream, expected, events }]);
      return result?.version ?? 0;
    };
    const question = (name: string, load: Load): Question => ({
      name: `postgres: ${name}`,
      unit: "events/s",
      contenders: [
        {
          name: "postgres.js: function by hand",
          run: () => appendAll(sql, byHand, appendByHand(sql, byHand), load),
        },
        { name: "millstream: events.append", run: () => appendAll(sql, own, millstreamAppend, load) },
      ],
    });
    const scaled = (count: number): number => Math.ceil(count * scale);
    return {
      about: await about(sql),
      questions: [
        question("1 caller, 1 event per append", { callers: 1, events: scaled(1_000), perAppend: 1 }),
        question("32 callers, 1 event per append", { callers: 32, events: 32 * scaled(200), perAppend: 1 }),
        question("1 caller, 100 events per append", {
          callers: 1,
          events: 100 * scaled(100),
          perAppend: 100,
        }),
      ],
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** The same tables as the event store's, by making one and closing it again. */
async function makeTables(url: string, schema: string): Promise<void> {
  const store = postgres({ url, schema });
  try {
    await store.start();
  } finally {
    await store[Symbol.asyncDispose]();
  }
}

/** Lets each caller append its share to a new stream of its own, and checks that all of it is there. */
async function appendAll(sql: postgresJs.Sql, schema: string, append: Append, load: Load): Promise<Measured> {
  const { callers, events, perAppend } = load;
  const run = crypto.randomUUID();
  const all = makeEvents(events);
  const shares = inBatches(all, events / callers).map((share) => inBatches(share, perAppend));

  const measured = await timed(events, async () => {
    await Promise.all(shares.map(async (appends, caller) => {
      let version = 0;
      for (const batch of appends) version = await append(`${run}-${caller}`, version, batch);
      verify("the stream's version", version, events / callers);
    }));
  });

  const [stored] = await sql.unsafe<Stored[]>(
    `select count(*)::int as events, sum(octet_length(body))::int as bytes, count(distinct id)::int as ids
    from ${schema}.events where stream like $1`,
    [`${run}-%`],
  );
  verify("events stored", stored?.events, events);
  verify("ids stored", stored?.ids, events);
  verify("bytes stored", stored?.bytes, all.reduce((bytes, { body }) => bytes + body.length, 0));
  return measured;
}

interface Stored {
  readonly events: number;
  readonly ids: number;
  readonly bytes: number;
}

function appendByHand(sql: postgresJs.Sql, schema: string): Append {
  const text = `select ${schema}.append_by_hand($1, $2, $3::text[], $4::text[], $5::text[]) as version`;
  return async (stream, expected, events) => {
    const columns = [
      events.map(({ id }) => id),
      events.map(({ type }) => type),
      events.map(({ body }) => body),
    ];
    const [row] = await sql.unsafe<{ version: number }[]>(text, [stream, expected, ...columns], {
      prepare: true,
    });
    return row?.version ?? 0;
  };
}

/** `p_stream` must have `p_expected` events; the arrays have one element per event. Returns the version after it. */
const APPEND_BY_HAND = (s: string): string =>
  `create function ${s}.append_by_hand(p_stream text, p_expected int, p_ids text[], p_types text[], p_bodies text[])
returns int language plpgsql as $$
declare
  v_version constant int := p_expected + cardinality(p_ids);
begin
  if p_expected = 0 then
    insert into ${s}.streams (stream, version) values (p_stream, v_version) on conflict (stream) do nothing;
  else
    update ${s}.streams t set version = v_version where t.stream = p_stream and t.version = p_expected;
  end if;
  if not found then
    raise exception 'stream "%" is not at version %', p_stream, p_expected using errcode = 'serialization_failure';
  end if;
  insert into ${s}.events (pos, stream, version, id, type, body)
    select nextval('${s}.event_positions'), p_stream, p_expected + u.nth, u.id, u.type, u.body
    from unnest(p_ids, p_types, p_bodies) with ordinality u(id, type, body, nth);
  return v_version;
end
$$`;

async function about(sql: postgresJs.Sql): Promise<Record<string, string>> {
  const settings = ["server_version", "synchronous_commit", "fsync", "full_page_writes"];
  const rows = await sql<{ name: string; setting: string }[]>`
    select name, setting from pg_settings where name in ${sql(settings)}`;
  const found = new Map(rows.map(({ name, setting }) => [name, setting]));
  const setting = (name: string): string => found.get(name) ?? "unknown";
  return {
    postgres: setting("server_version"),
    synchronous_commit: setting("synchronous_commit"),
    fsync: setting("fsync"),
    full_page_writes: setting("full_page_writes"),
  };
}
