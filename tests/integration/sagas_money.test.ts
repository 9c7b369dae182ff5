/** Money is neither made nor lost: transfers while workers are killed and the database restarts. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { type ScriptProcess, startScript } from "../support/process.ts";
import { needs } from "../support/require.ts";
import { scale } from "../support/scale.ts";
import { postgresBinaries, type PrivateServer, startPostgres } from "../support/servers.ts";
import { eventually, pause } from "../support/wait.ts";
import { newRun } from "../unit/sagas_crash_points.ts";

const WORKER = new URL("./sagas_money_worker.ts", import.meta.url);
const ACCOUNTS = 100;
const BALANCE = 1_000;
const TRANSFERS = Math.round(150 * scale);
const CONCURRENCY = scale > 1 ? 16 : 4;
const SCHEMA = "money";

describe("transfers between accounts", {
  skip: needs("a Postgres of its own", postgresBinaries() !== undefined),
}, () => {
  let server: PrivateServer;
  let store: PostgresStore;
  const workers: ScriptProcess[] = [];

  before(async () => {
    server = await startPostgres({ diesWithParent: true });
    store = postgres({ url: server.url, schema: SCHEMA });
    await store.start();
    const { sql } = store;
    await sql`create table ${sql(SCHEMA)}.accounts (id int primary key, balance int not null)`;
    await sql`create table ${
      sql(SCHEMA)
    }.ledger (key text primary key, account int not null, amount int not null)`;
    await sql`insert into ${
      sql(SCHEMA)
    }.accounts select n, ${BALANCE} from generate_series(1, ${ACCOUNTS}) n`;
  });
  after(async () => {
    await Promise.all(workers.map((worker) => worker.kill9()));
    await store?.[Symbol.asyncDispose]();
    await server?.stop();
  });

  function hire(): void {
    workers.push(startScript(WORKER, { args: [server.url, SCHEMA, String(CONCURRENCY)] }));
  }

  async function unfinished(): Promise<number> {
    const { sql } = store;
    const [row] = await sql<{ count: number }>`select count(*)::int as count from ${sql(SCHEMA)}.sagas
      where status not in ('completed', 'compensated', 'compensation_failed')`;
    return row!.count;
  }

  test("with workers killed every 2 s and the database restarted twice: the sum stays, nobody is negative, every saga ends", async () => {
    const now = Date.now();
    const pick = (): number => 1 + Math.floor(Math.random() * ACCOUNTS);
    const transfers = Array.from({ length: TRANSFERS }, (_, n) => {
      const data = {
        from: pick(),
        to: pick(),
        amount: 1 + Math.floor(Math.random() * 600),
        declined: n % 10 === 0,
      };
      return { ...newRun("transfer", `t-${n}`, now), data };
    });
    await store.sagas.create(transfers);
    let kills = 0;
    let restarts = 0;
    let over = false;
    hire();
    hire();
    async function killing(): Promise<void> {
      while (!over) {
        await pause(2_000);
        if (over) return;
        await workers.shift()?.kill9();
        kills++;
        hire();
      }
    }
    async function restarting(): Promise<void> {
      for (const how of ["kill9", "restart"] as const) {
        await pause(2_500);
        if (how === "kill9") await server.kill9();
        await server.restart();
        restarts++;
      }
    }
    const chaos = Promise.all([killing(), restarting()]);
    await eventually(async () => restarts === 2 && await unfinished().catch(() => 1) === 0, {
      withinMs: 60_000 + 100 * TRANSFERS,
      everyMs: 200,
    });
    over = true;
    await chaos;

    const { sql } = store;
    const [money] = await sql<{ sum: number; least: number }>`
      select sum(balance)::int as sum, min(balance)::int as least from ${sql(SCHEMA)}.accounts`;
    const statuses = await sql<{ status: string; count: number }>`
      select status, count(*)::int as count from ${sql(SCHEMA)}.sagas group by status order by status`;
    const counts = Object.fromEntries(statuses.map(({ status, count }) => [status, count]));
    const [booked] = await sql<{ completed: number; compensated: number }>`
      select count(*) filter (where status = 'completed' and c.key is not null and d.amount < 0 and u.key is null)::int as completed,
        count(*) filter (where status = 'compensated' and c.key is null
          and (d.key is null or d.amount = 0 or u.key is not null))::int as compensated
      from ${sql(SCHEMA)}.sagas s
      left join ${sql(SCHEMA)}.ledger d on d.key = s.id || '/debit'
      left join ${sql(SCHEMA)}.ledger c on c.key = s.id || '/credit'
      left join ${sql(SCHEMA)}.ledger u on u.key = s.id || '/debit/undo'`;
    console.log(
      `# ${TRANSFERS} transfers, ${kills} workers killed, ${restarts} restarts of the database: ` +
        `${JSON.stringify(counts)}, sum ${money!.sum}, least ${money!.least}`,
    );
    assert.equal(money!.sum, ACCOUNTS * BALANCE);
    assert.ok(money!.least >= 0);
    assert.ok(kills >= 1);
    assert.equal((counts.completed ?? 0) + (counts.compensated ?? 0), TRANSFERS);
    assert.ok((counts.compensated ?? 0) >= Math.ceil(TRANSFERS / 10), "those that were declined");
    assert.deepEqual(booked, { completed: counts.completed ?? 0, compensated: counts.compensated ?? 0 });
  });
});
