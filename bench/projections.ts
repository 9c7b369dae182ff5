/**
 * Catching up: a projection that has all events of a store still before it, against a server-side cursor on postgres.js
 * and one batched upsert per transaction, written by hand.
 *
 * Both keep the same table: a sum for each of 1,000 accounts.
 *
 * @module
 */
import postgresJs from "postgres";
import * as v from "valibot";
import { event, projection } from "../mod.ts";
import { postgres } from "../src/postgres/mod.ts";
import { systemClock } from "../src/core/clock.ts";
import { waitFor } from "../src/sourcing/caught_up.ts";
import { startProjection } from "../src/sourcing/projection_runner.ts";
import { prepareEmmett } from "./emmett.ts";
import { inBatches } from "./events.ts";
import { type Measured, type Prepared, timed, verify } from "./harness.ts";

const PAGE = 1_000;
const ACCOUNTS = 1_000;
const Paid = event("payment.made", v.object({ account: v.string(), amount: v.number() }));

/**
 * The question on the server at `url`, in a schema of its own that is dropped on disposal.
 *
 * @param count Events to catch up with.
 */
export async function prepareProjections(url: string, count: number): Promise<Prepared> {
  const schema = `bench_${crypto.randomUUID().slice(0, 8)}`;
  const sql = postgresJs(url, { max: 4, onnotice: () => {} });
  const store = postgres({ url, schema });
  const emmett = await prepareEmmett(sql, url, schema);
  const dispose = async (): Promise<void> => {
    await emmett.dispose();
    await store[Symbol.asyncDispose]();
    await sql.unsafe(`drop schema if exists ${schema} cascade`);
    await sql.end();
  };
  try {
    await store.start();
    await fill(store, count);
    await emmett.fill(Math.ceil(count / 20));
    await sql.unsafe(
      `create table ${schema}.sums (account text primary key, sum float8 not null, events int not null)`,
    );
    await sql.unsafe(`analyze ${schema}.events`);
    const measured = async (work: () => Promise<void>): Promise<Measured> => {
      await sql.unsafe(`truncate ${schema}.sums`);
      const result = await timed(count, work);
      const [row] = await sql.unsafe(
        `select sum(events)::int as events, sum(sum) as sum from ${schema}.sums`,
      );
      verify("events applied", row?.events, count);
      verify("the sum of all accounts", row?.sum, count);
      return result;
    };
    return {
      about: { events: String(count) },
      questions: [{
        name: `projections: catching up, ${PAGE} events per transaction`,
        unit: "events/s",
        contenders: [
          {
            name: "postgres.js: cursor and upsert by hand",
            run: () => measured(() => byCursor(sql, schema)),
          },
          { name: "postgres.js: pages and upsert by hand", run: () => measured(() => byPages(sql, schema)) },
          { name: "millstream: projection", run: () => measured(() => millstream(store, schema, 1)) },
          {
            name: "millstream: projection, 2 lanes",
            run: () => measured(() => millstream(store, schema, 2)),
          },
          emmett.contender,
        ],
      }],
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** What a projection writes for a batch: `$1` accounts, `$2` sums, `$3` numbers of events. */
const UPSERT = (schema: string): string =>
  `insert into ${schema}.sums as s (account, sum, events)
select * from unnest($1::text[], $2::float8[], $3::int[])
on conflict (account) do update set sum = s.sum + excluded.sum, events = s.events + excluded.events`;

/** One server-side cursor over all events. */
async function byCursor(sql: postgresJs.Sql, schema: string): Promise<void> {
  const checkpoint = `by-hand-${crypto.randomUUID()}`;
  const all = sql.unsafe<Row[]>(`select pos, type, body from ${schema}.events order by pos`);
  await all.cursor(PAGE, async (rows) => await applyByHand(sql, schema, { checkpoint, rows }));
}

/** One statement per page, the next page being read while this one is applied. */
async function byPages(sql: postgresJs.Sql, schema: string): Promise<void> {
  const checkpoint = `by-hand-${crypto.randomUUID()}`;
  const read = async (after: string): Promise<readonly Row[]> =>
    await sql.unsafe<Row[]>(
      `select pos, type, body from ${schema}.events where pos > $1 order by pos limit ${PAGE}`,
      [after],
      { prepare: true },
    );
  for (let rows = await read("0"); rows.length > 0;) {
    const [next] = await Promise.all([
      read(rows.at(-1)!.pos),
      applyByHand(sql, schema, { checkpoint, rows }),
    ]);
    rows = next;
  }
}

interface Row {
  readonly pos: string;
  readonly type: string;
  readonly body: string;
}

async function applyByHand(
  sql: postgresJs.Sql,
  schema: string,
  { checkpoint, rows }: { readonly checkpoint: string; readonly rows: readonly Row[] },
): Promise<void> {
  const batch = rows.map(({ body }) => JSON.parse(body).data as Payment);
  await sql.begin(async (transaction) => {
    await transaction.unsafe(UPSERT(schema), fold(batch), { prepare: true });
    await transaction.unsafe(
      `insert into ${schema}.checkpoints (name, position) values ($1, $2)
      on conflict (name) do update set position = excluded.position`,
      [checkpoint, rows.at(-1)!.pos],
      { prepare: true },
    );
  });
}

interface Payment {
  readonly account: string;
  readonly amount: number;
}

async function millstream(store: ReturnType<typeof postgres>, schema: string, lanes: number): Promise<void> {
  const [newest] = await store.sql<{ pos: string }>`select max(pos) as pos from ${
    store.sql(`${schema}.events`)
  }`;
  const last = BigInt(newest!.pos);
  const Sums = projection(
    `sums-${crypto.randomUUID()}`,
    { on: [Paid], batchSize: PAGE, lanes },
    async (events, { sql }) => {
      const [accounts, sums, counts] = fold(events.map(({ data }) => data));
      await sql`insert into ${sql(`${schema}.sums`)} as s (account, sum, events)
        select * from unnest(${accounts}::text[], ${sums}::float8[], ${counts}::int[]) order by 1
        on conflict (account) do update set sum = s.sum + excluded.sum, events = s.events + excluded.events`;
    },
  );
  const parts = { store, clock: systemClock, owner: crypto.randomUUID() };
  const loop = startProjection({ ...parts, observer: () => {} }, Sums);
  try {
    await waitFor(parts, [Sums], last, { waitMs: 120_000 });
  } finally {
    await loop.stop();
  }
}

type Columns = [accounts: string[], sums: number[], counts: number[]];

/** The sums of a batch by account, as columns. */
function fold(batch: readonly Payment[]): Columns {
  const sums = new Map<string, { sum: number; count: number }>();
  for (const { account, amount } of batch) {
    const entry = sums.get(account) ?? { sum: 0, count: 0 };
    entry.sum += amount;
    entry.count++;
    sums.set(account, entry);
  }
  const entries = [...sums];
  return [
    entries.map(([account]) => account),
    entries.map(([, { sum }]) => sum),
    entries.map(([, { count }]) => count),
  ];
}

/** Appends payments of 1 to accounts in turn. */
async function fill(store: ReturnType<typeof postgres>, count: number): Promise<void> {
  const events = Array.from({ length: count }, (_, n) => {
    const id = crypto.randomUUID();
    const account = `account-${n % ACCOUNTS}`;
    const data = `{"account":"${account}","amount":1}`;
    const envelope = `"specversion":"1.0","id":"${id}","source":"/bench","type":"${Paid.type}"`;
    const time = `"time":"2026-01-01T00:00:00.000Z"`;
    return {
      stream: account,
      event: { id, type: Paid.type, body: `{${envelope},${time},"correlationid":"${id}","data":${data}}` },
    };
  });
  for (const batch of inBatches(events, ACCOUNTS)) {
    await store.events.append(
      batch.map(({ stream, event }) => ({ stream, expected: "any" as const, events: [event] })),
    );
  }
}
