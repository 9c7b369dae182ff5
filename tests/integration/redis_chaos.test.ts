/**
 * Workers in processes of their own are killed and frozen, the server restarts, replies are dropped, while messages are
 * published and handled. Everything that was accepted is handled; whatever was handled twice has a reason; and each key
 * stays in order. `MILLSTREAM_SCALE=50` is 200 kills.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { redis } from "../../src/redis/mod.ts";
import { type ScriptProcess, startScript } from "../support/process.ts";
import { startProxy } from "../support/proxy.ts";
import { service } from "../support/require.ts";
import { scale } from "../support/scale.ts";
import { type PrivateServer, startRedis } from "../support/servers.ts";
import { eventually, pause } from "../support/wait.ts";
import { command } from "./support/redis_admin.ts";

const binary = service("redis-server");
const WORKER = new URL("./support/redis_worker.ts", import.meta.url);
const LEASE_MS = 1_500;
const KEYS = 10;

test(
  "workers are killed and frozen, the server restarts, replies are lost: all is handled, each key in order",
  { skip: binary.skip, timeout: 120_000 + 20_000 * scale },
  async () => {
    const server = await startRedis();
    const proxy = await startProxy(server.port);
    const prefix = `t${randomUUID().slice(0, 8)}`;
    const broker = redis({ url: `redis://127.0.0.1:${proxy.port}`, prefix, timeoutMs: 1_000 });
    const spawn = (): ScriptProcess =>
      startScript(WORKER, { args: [server.url, prefix, "orders", "billing", String(LEASE_MS)] });
    const workers = [spawn(), spawn(), spawn()];
    const counts = { published: 0, lostReplies: 0, kills: 0, freezes: 0, restarts: 0, scriptFlushes: 0 };
    const accepted: string[] = [];
    let over = false;
    try {
      await Promise.all(workers.map((worker) => worker.line("works", { withinMs: 30_000 })));
      const publishing = publishAll();
      const faults = 4 * scale;
      for (let fault = 0; fault < faults; fault++) {
        await pause(150);
        const index = fault % workers.length;
        await workers[index]!.kill9();
        counts.kills++;
        workers[index] = spawn();
        if (fault % 4 === 1) void freeze(workers[(index + 1) % workers.length]!);
        if (fault % 4 === 2) {
          counts.lostReplies++;
          await proxy.set("dropReplies");
          await pause(100);
          await proxy.set("pass");
        }
        if (fault % 4 === 3) await restart(server);
        await workers[index]!.line("works", { withinMs: 30_000 });
      }
      over = true;
      await publishing;
      await eventually(async () => {
        const seen = new Set((await notes()).map(({ id }) => id));
        return accepted.every((id) => seen.has(id));
      }, { withinMs: 60_000, everyMs: 200 });
      await eventually(async () => {
        const left = await leftOvers();
        if (left === "0 0 0") return true;
        throw new Error(`ready, in flight, delayed: ${left}`);
      }, { withinMs: 30_000, everyMs: 100 });
    } finally {
      for (const worker of workers) await worker.kill9();
      await broker[Symbol.asyncDispose]();
    }

    const all = await notes();
    await proxy[Symbol.asyncDispose]();
    await server.stop();
    const byId = new Map<string, Note[]>();
    for (const note of all) byId.set(note.id, [...byId.get(note.id) ?? [], note]);
    assert.deepEqual(accepted.filter((id) => !byId.has(id)), [], "accepted and never handled");
    const strangers = [...byId.keys()].filter((id) => !accepted.includes(id));
    assert.deepEqual(strangers, [], "handled and never accepted");
    // Whoever is killed between note and acknowledgement, or frozen, leaves its message to the next.
    const again = [...byId.values()].flatMap((handled) => handled.slice(1));
    const first = [...byId.values()].filter((handled) => handled.length > 1).map(([note]) => note!);
    for (const note of again) {
      assert.ok(
        note.redelivered || note.late || first.some(({ id, late }) => id === note.id && late),
        note.text,
      );
    }
    for (let key = 0; key < KEYS; key++) {
      const order = all.filter(({ id, late }) => !late && id.startsWith(`k${key}:`)).map(({ number }) =>
        number
      );
      order.forEach((number, place) => {
        const before = order[place - 1] ?? -1;
        assert.ok(number >= before, `k${key}: ${order.slice(Math.max(0, place - 5), place + 1)}`);
      });
      assert.ok(order.length > 0, `k${key} had nothing`);
    }
    const late = all.filter((note) => note.late).length;
    console.log(JSON.stringify({ ...counts, handled: byId.size, handledAgain: again.length, late }));

    async function leftOvers(): Promise<string> {
      const direct = redis({ url: server.url, prefix });
      try {
        const [status] = await direct.groups();
        return `${status?.ready} ${status?.inFlight} ${status?.delayed}`;
      } finally {
        await direct[Symbol.asyncDispose]();
      }
    }

    /** Publishes one after the other for each key, again with the same id until it is accepted. */
    async function publishAll(): Promise<void> {
      const lanes = Array.from({ length: KEYS + 2 }, async (_, lane) => {
        for (let n = 0; !over; n++) {
          const id = `k${lane}:${n}`;
          const message = { id, type: "order.placed", body: `{"n":${n}}` };
          for (;;) {
            try {
              await broker.publish("orders", [lane < KEYS ? { ...message, key: `k${lane}` } : message]);
              break;
            } catch {
              await pause(20);
            }
          }
          accepted.push(id);
          counts.published++;
          await pause(15);
        }
      });
      await Promise.all(lanes);
    }

    async function freeze(worker: ScriptProcess): Promise<void> {
      counts.freezes++;
      try {
        worker.sigstop();
        await pause(LEASE_MS + 500);
        worker.sigcont();
      } catch { /* killed meanwhile */ }
    }

    async function restart(which: PrivateServer): Promise<void> {
      // In order: one that is killed may forget what it confirmed in the last second or two, as `everysec` says.
      counts.restarts++;
      await which.restart();
      counts.scriptFlushes++;
      await command(which.url, "script", "flush");
    }

    async function notes(): Promise<readonly Note[]> {
      const texts = await command(server.url, "lrange", `${prefix}:notes`, 0, -1).catch(() => []);
      return (texts as readonly string[]).map((text) => {
        const [kind, id = "", redelivered] = text.split(" ");
        return {
          text,
          id,
          number: Number(id.split(":")[1]),
          late: kind === "late",
          redelivered: redelivered === "true",
        };
      });
    }
  },
);

interface Note {
  readonly text: string;
  readonly id: string;
  readonly number: number;
  readonly late: boolean;
  readonly redelivered: boolean;
}
