/** A worker of sagas_money.test.ts: moves money between accounts until it is killed. */
import process from "node:process";
import * as v from "valibot";
import { millstream, refuse, saga, type Store } from "../../mod.ts";
import { postgres } from "../../src/postgres/mod.ts";

const [url = "", schema = "", concurrency = "4"] = process.argv.slice(2);
const store: Store = postgres({ url, schema, max: 6, migrate: false });

const Transfer = v.object({ from: v.number(), to: v.number(), amount: v.number(), declined: v.boolean() });
type Transfer = v.InferOutput<typeof Transfer>;

const slowly = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20 + Math.random() * 80));

/** Books once for each key; a key that was booked under another kind before stays what it is. False if it was known. */
async function book(key: string, account: number, amount: number): Promise<boolean> {
  return await store.transaction(async ({ sql }) => {
    const added = await sql`insert into ${
      sql(schema)
    }.ledger (key, account, amount) values (${key}, ${account}, ${amount})
      on conflict (key) do nothing returning 1`;
    if (added.length === 0) return false;
    const changed = await sql`update ${sql(schema)}.accounts set balance = balance + ${amount}::int
      where id = ${account} and balance + ${amount}::int >= 0 returning 1`;
    if (changed.length === 0) throw refuse("INSUFFICIENT");
    return true;
  });
}

const Transfers = saga<Transfer>("transfer", Transfer)
  .step("debit", {
    retry: { attempts: 50, baseMs: 20, maxMs: 500 },
    async run({ from, amount }, { idempotencyKey }) {
      await slowly();
      await book(idempotencyKey, from, -amount);
    },
    undoRetry: { attempts: 100, baseMs: 20, maxMs: 500 },
    async undo({ from, amount }, { sagaId, idempotencyKey }) {
      // A debit that never came is booked with nothing, so that one that is still on its way finds its key taken.
      const key = `${sagaId}/debit`;
      const never = await book(key, from, 0);
      const [entry] = await store.sql<{ amount: number }>`select amount from ${
        store.sql(schema)
      }.ledger where key = ${key}`;
      if (!never && entry?.amount !== 0) await book(idempotencyKey, from, amount);
    },
  })
  .step("check", {
    async run({ declined }) {
      await slowly();
      if (declined) throw refuse("DECLINED");
    },
  })
  .step("credit", {
    pivot: true,
    retry: { attempts: 50, baseMs: 20, maxMs: 500 },
    async run({ to, amount }, { idempotencyKey }) {
      await slowly();
      await book(idempotencyKey, to, amount);
    },
  })
  .step("confirm", { retry: { attempts: 50, baseMs: 20, maxMs: 500 }, run: () => slowly() });

const app = millstream({ store, sagas: { concurrency: Number(concurrency), leaseMs: 2_000 } });
await app.use(Transfers).start();
console.log("works");
