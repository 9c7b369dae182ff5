/**
 * The event store on Postgres: appends against a single statement on postgres.js that calls a hand-written function, on
 * the same tables and as many connections, and against Emmett; reads against a plain select and Emmett; and appends as
 * the store grows.
 *
 * The function by hand does the least that an event store must: move the stream's version as expected, and insert the
 * events. It has no idempotency by event id, no outbox, and takes one stream only.
 *
 * @module
 */
import postgresJs from "postgres";
import type { EncodedMessage } from "../mod.ts";
import { postgres, type PostgresStore } from "../src/postgres/mod.ts";
import { openEmmett } from "./emmett_store.ts";
import { inBatches, makeEvents, TYPE } from "./events.ts";
import { type Contender, type Measured, type Prepared, type Question, timed, verify } from "./harness.ts";

const CONNECTIONS = 8;

/** One way to append to a stream that has `expected` events. Returns the stream's version after it. */
type Append = (stream: string, expected: number, events: readonly EncodedMessage[]) => Promise<number>;

/** How much to append, and how. */
interface Load {
  readonly callers: number;
  readonly events: number;
  readonly perAppend: number;
}

/** Stored events between which the cost of an append is compared. */
const FEW = 10_000;
const MANY = 1_000_000;

/**
 * The questions on the server at `url`, in schemas of their own that are dropped on disposal.
 *
 * @param scale Events per run: 1 for a complete measurement, less for a quick look.
 */
export async function preparePostgres(url: string, scale: number): Promise<Prepared> {
  const sql = postgresJs(url, { max: CONNECTIONS, onnotice: () => {} });
  const schema = `bench_${crypto.randomUUID().slice(0, 8)}`;
  const [own, byHand, few, many] = [schema, `${schema}_raw`, `${schema}_few`, `${schema}_many`];
  const stores = new Map<string, PostgresStore>();
  const emmett = await openEmmett(url);
  const dispose = async (): Promise<void> => {
    for (const store of stores.values()) await store[Symbol.asyncDispose]();
    await emmett[Symbol.asyncDispose]();
    await sql.unsafe(`drop schema if exists ${own}, ${byHand}, ${few}, ${many} cascade`);
    await sql.end();
  };

  async function open(schema: string): Promise<Append> {
    const store = postgres({ url, schema, max: CONNECTIONS });
    stores.set(schema, store);
    await store.start();
    return async (stream, expected, events) => {
      const [result] = await store.events.append([{ stream, expected, events }]);
      return result?.version ?? 0;
    };
  }

  try {
    const append = await open(own);
    await open(byHand); // for its tables
    await sql.unsafe(APPEND_BY_HAND(byHand));
    const scaled = (count: number): number => Math.ceil(count * scale);
    const question = (name: string, load: Load): Question => ({
      name: `postgres: ${name}`,
      unit: "events/s",
      contenders: [
        {
          name: "postgres.js: function by hand",
          run: () => appendAll(appendByHand(sql, byHand), load, stored(sql, byHand)),
        },
        { name: "millstream: events.append", run: () => appendAll(append, load, stored(sql, own)) },
        { name: "emmett: appendToStream", run: () => appendAll(emmett.append, load) },
      ],
    });
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
        await readQuestion(scaled(50)),
        await growthQuestion({ callers: 32, events: 32 * scaled(200), perAppend: 1 }),
      ],
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }

  /** A stream of 1,000 events, read over and over. */
  async function readQuestion(times: number): Promise<Question> {
    const [stream, length] = ["read", 1_000];
    const events = makeEvents(length);
    const store = stores.get(own)!;
    await store.events.append([{ stream, expected: 0, events }]);
    await emmett.append(stream, 0, events);
    const text =
      `select pos, stream, version, id, type, key, body from ${own}.events where stream = $1 order by version`;
    const contender = (name: string, read: () => Promise<number>): Contender => ({
      name,
      run: () =>
        timed(times * length, async () => {
          for (let time = 0; time < times; time++) verify("events read", await read(), length);
        }),
    });
    return {
      name: "postgres: read a stream of 1,000 events",
      unit: "events/s",
      contenders: [
        contender(
          "postgres.js: select",
          async () => (await sql.unsafe(text, [stream], { prepare: true })).length,
        ),
        contender(
          "millstream: events.readStream",
          async () => (await store.events.readStream(stream)).length,
        ),
        contender("emmett: readStream", async () => await emmett.read(stream)),
      ],
    };
  }

  /** The same appends where few and where many events are stored already. */
  async function growthQuestion(load: Load): Promise<Question> {
    const contender = async (schema: string, count: number): Promise<Contender> => {
      const append = await open(schema);
      await fill(sql, schema, count);
      return {
        name: `millstream: events.append, ${count} stored`,
        run: () => appendAll(append, load, stored(sql, schema)),
      };
    };
    return {
      name: "postgres: 32 callers, as the store grows",
      unit: "events/s",
      contenders: [
        await contender(few, Math.ceil(FEW * scale)),
        await contender(many, Math.ceil(MANY * scale)),
      ],
    };
  }
}

/** Fills a store with streams of 10 events each. */
async function fill(sql: postgresJs.Sql, schema: string, count: number): Promise<void> {
  const body = makeEvents(1)[0]!.body;
  await sql.unsafe(`insert into ${schema}.streams (stream, version)
    select 'filled-' || n, 10 from generate_series(1, ${count / 10}) n`);
  await sql.unsafe(
    `insert into ${schema}.events (pos, stream, version, id, type, body)
    select nextval('${schema}.event_positions'), 'filled-' || n, v, gen_random_uuid()::text, '${TYPE}', $1::text
    from generate_series(1, ${count / 10}) n, generate_series(1, 10) v`,
    [body],
  );
  await sql.unsafe(`vacuum analyze ${schema}.events`);
  await sql.unsafe(`vacuum analyze ${schema}.streams`);
}

/** Lets each caller append its share to a new stream of its own, and checks that all of it is there. */
async function appendAll(
  append: Append,
  { callers, events, perAppend }: Load,
  check?: (run: string) => Promise<Stored | undefined>,
): Promise<Measured> {
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

  if (!check) return measured;
  const found = await check(run);
  verify("events stored", found?.events, events);
  verify("ids stored", found?.ids, events);
  verify("bytes stored", found?.bytes, all.reduce((bytes, { body }) => bytes + body.length, 0));
  return measured;
}

interface Stored {
  readonly events: number;
  readonly bytes: number;
  readonly ids: number;
}

/** What a run has left in a schema. */
function stored(sql: postgresJs.Sql, schema: string): (run: string) => Promise<Stored | undefined> {
  return async (run) => {
    const [found] = await sql.unsafe<Stored[]>(
      `select count(*)::int as events, sum(octet_length(body))::int as bytes, count(distinct id)::int as ids
      from ${schema}.events where stream >= $1 and stream < $2`,
      [`${run}-`, `${run}.`],
    );
    return found;
  };
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
