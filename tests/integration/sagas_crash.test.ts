/** Every crash point of a saga on Postgres: all of them in a process that falls silent, some by SIGKILL. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { startScript } from "../support/process.ts";
import { scale } from "../support/scale.ts";
import { eventually } from "../support/wait.ts";
import {
  checkRun,
  fourSteps,
  mortal,
  newRun,
  orchestrate,
  type Way,
  WAYS,
} from "../unit/sagas_crash_points.ts";
import { dropSchema, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";
import { createEffects, effectsIn, effectsOf } from "./sagas_effects.ts";

const CHILD = new URL("./sagas_crash_child.ts", import.meta.url);
const NEVER = new Promise<never>(() => {});
const LEASE_MS = 1_000;
const PATIENCE = { withinMs: 60_000, everyMs: 50 };

describe("a saga on Postgres whose process dies", { skip: server.skip }, () => {
  const schema = uniqueSchema("saga_crash");
  let store: PostgresStore;
  const points = new Map<Way, readonly string[]>();

  before(async () => {
    store = postgres({ driver: openDriver(), schema });
    await store.start();
    await createEffects(store, schema);
    for (const way of WAYS) points.set(way, await undisturbed(way));
  });
  after(async () => {
    await store?.[Symbol.asyncDispose]();
    await dropSchema(schema);
  });

  async function create(name: string): Promise<void> {
    await store.sagas.create([newRun(name, name, Date.now())]);
  }

  async function ended(name: string): Promise<boolean> {
    const status = (await store.sagas.load(name))?.status ?? "";
    return ["completed", "compensated", "compensation_failed"].includes(status);
  }

  async function undisturbed(way: Way): Promise<readonly string[]> {
    const name = `${way}-0`;
    await create(name);
    const first = mortal(store, effectsIn(store, schema), Infinity, () => NEVER);
    const loop = orchestrate(first.store, [fourSteps(name, way, first.world)], "first");
    await eventually(() => ended(name), PATIENCE);
    await loop.stop();
    return first.points;
  }

  async function checkAll(names: ReadonlyMap<string, { way: Way; where: string }>): Promise<void> {
    for (const [name, { way, where }] of names) {
      await eventually(() => ended(name), PATIENCE);
      const { keys, repeated } = await effectsOf(store, schema, name);
      checkRun(way, name, await store.sagas.load(name), keys, where);
      assert.ok(repeated <= 1, `${where}: ${repeated} calls repeated`);
    }
  }

  test("at any save and any step, forward or back: another process ends it, each effect and undo once by key", async () => {
    const runs = new Map<string, { way: Way; where: string }>();
    const dying = WAYS.flatMap((way) =>
      points.get(way)!.map((where, index) => {
        const name = `${way}-silent-${index + 1}`;
        runs.set(name, { way, where });
        return { name, way, at: index + 1 };
      })
    );
    await Promise.all(dying.map(({ name }) => create(name)));
    const silenced = dying.map(({ name, way, at }) => {
      const first = mortal(store, effectsIn(store, schema), at, () => NEVER);
      orchestrate(first.store, [fourSteps(name, way, first.world)], `dying-${name}`, { leaseMs: LEASE_MS });
      return { first, at };
    });
    await eventually(() => silenced.every(({ first, at }) => first.points.length === at), PATIENCE);
    const sagas = [...runs].map(([name, { way }]) => fourSteps(name, way, effectsIn(store, schema)));
    const rescue = orchestrate(store, sagas, "rescue", { leaseMs: LEASE_MS });
    await checkAll(runs);
    await rescue.stop();
    const count = (way: Way): number => points.get(way)!.length;
    console.log(
      `# sagas on Postgres: ${count("forward")} crash points forward, ${
        count("back")
      } back, all as they should`,
    );
    for (const way of WAYS) {
      console.log(points.get(way)!.map((where, n) => `#   ${way} ${n + 1}: ${where}: ok`).join("\n"));
    }
  });

  test("by SIGKILL: the same", async () => {
    const all = WAYS.flatMap((way) =>
      points.get(way)!.map((where, index) => ({ way, where, at: index + 1 }))
    );
    const step = Math.max(1, Math.floor(all.length / Math.min(all.length, 6 * scale)));
    const chosen = all.filter((_, index) => index % step === Math.floor(step / 2));
    const runs = new Map(chosen.map(({ way, where, at }) => [`${way}-killed-${at}`, { way, where, at }]));
    const queue = [...runs];
    async function kill(): Promise<void> {
      for (let next = queue.pop(); next; next = queue.pop()) {
        const [name, { way, at }] = next;
        await create(name);
        const child = startScript(CHILD, { args: [schema, name, way, String(at), String(LEASE_MS)] });
        const { signal, code } = await child.ended;
        assert.ok(
          signal === "SIGKILL" || code === 137,
          `${name} ended by ${signal ?? code}\n${child.output()}`,
        );
      }
    }
    await Promise.all([kill(), kill()]);
    const sagas = [...runs].map(([name, { way }]) => fourSteps(name, way, effectsIn(store, schema)));
    const rescue = orchestrate(store, sagas, "rescue", { leaseMs: LEASE_MS });
    await checkAll(runs);
    await rescue.stop();
    console.log(
      `# sagas on Postgres: ${runs.size} of ${all.length} crash points by SIGKILL, all as they should`,
    );
  });
});
