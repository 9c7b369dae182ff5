/** Two processes drive the same sagas, and one of them is frozen past its lease. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { millstream } from "../../mod.ts";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import type { SagaInstance } from "../../src/ports/saga_store.ts";
import { type ScriptProcess, startScript } from "../support/process.ts";
import { eventually } from "../support/wait.ts";
import { newRun } from "../unit/sagas_crash_points.ts";
import { dropSchema, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";
import { LEASE_MS, slowSteps } from "./sagas_slow.ts";

const CHILD = new URL("./sagas_leader_child.ts", import.meta.url);
const COUNT = 12;

describe("two processes that drive the same sagas", { skip: server.skip }, () => {
  const schema = uniqueSchema("saga_leader");
  let store: PostgresStore;
  let child: ScriptProcess | undefined;

  before(async () => {
    store = postgres({ driver: openDriver(), schema });
    await store.start();
    const { sql } = store;
    // Every change of a saga, as the database sees it.
    await sql`create table ${sql(schema)}.audit (nth bigserial, id text, epoch int, instance text)`;
    await sql`create function ${sql(schema)}.note() returns trigger language plpgsql as $note$
      begin
        insert into ${sql(schema)}.audit (id, epoch, instance) values (new.id, new.epoch, new.instance);
        return new;
      end $note$`;
    await sql`create trigger note after update of instance on ${sql(schema)}.sagas
      for each row execute function ${sql(schema)}.note()`;
  });
  after(async () => {
    await child?.kill9();
    await store?.[Symbol.asyncDispose]();
    await dropSchema(schema);
  });

  test("while one is frozen past its lease the other goes on; no step is recorded under two epochs", async () => {
    const now = Date.now();
    const runs = Array.from({ length: COUNT }, (_, n) => ({
      ...newRun("slow", `s-${n}`, now),
      data: { refused: n % 2 === 1 },
    }));
    await store.sagas.create(runs);
    child = startScript(CHILD, { args: [schema] });
    await child.line("saga ", { withinMs: 60_000 }); // it drives, and all are in a step
    child.sigstop();
    // deno-lint-ignore no-explicit-any -- an application takes sagas of any data
    const app = millstream({ store, sagas: { leaseMs: LEASE_MS, pollMs: 50 } }).use(slowSteps() as any);
    await app.start();
    const ended = async (status: "completed" | "compensated"): Promise<boolean> =>
      (await store.sagas.list({ status, limit: COUNT })).length === COUNT / 2;
    await eventually(async () => await ended("completed") && await ended("compensated"), {
      withinMs: 60_000,
    });
    child.sigcont();
    await child.line("lost ", { withinMs: 30_000 });

    const { sql } = store;
    const audit = await sql<{ id: string; epoch: number; instance: string }>`
      select id, epoch, instance from ${sql(schema)}.audit order by nth`;
    const recorded = new Map<string, Set<number>>();
    const highest = new Map<string, number>();
    const turned = new Set<string>();
    const before = new Map<string, string>();
    for (const { id, epoch, instance } of audit) {
      assert.ok(epoch >= (highest.get(id) ?? 0), `${id}: epoch ${epoch} wrote after ${highest.get(id)}`);
      highest.set(id, epoch);
      const { status, steps } = JSON.parse(instance) as SagaInstance;
      for (const { name, status: outcome } of steps) {
        const key = `${id} ${name} ${outcome}`;
        const known = (before.get(id) ?? "").includes(`${name} ${outcome};`);
        if (outcome === "started" && turned.has(id)) assert.ok(known, `${key} after the first undo`);
        if (known || (outcome !== "done" && outcome !== "undone")) continue;
        recorded.set(key, (recorded.get(key) ?? new Set()).add(epoch));
      }
      before.set(id, steps.map(({ name, status: outcome }) => `${name} ${outcome};`).join(" "));
      if (status === "compensating") turned.add(id);
    }
    assert.ok([...highest.values()].some((epoch) => epoch > 1), "some were taken over");
    for (const [key, epochs] of recorded) assert.equal(epochs.size, 1, `${key} under ${[...epochs]}`);
    assert.equal(recorded.size, COUNT / 2 * 4 + COUNT / 2 * (3 + 4), "each step and each undo was recorded");
    console.log(`# ${COUNT} sagas, ${audit.length} saves, highest epoch ${Math.max(...highest.values())}`);
    await app.close();
  });
});
