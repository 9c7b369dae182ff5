/**
 * What runs by itself: starting it, its health, stopping it.
 *
 * @module
 */
import { disposer } from "../core/dispose.ts";
import { MillstreamError, toError } from "../core/errors.ts";
import type { Consumer } from "../messaging/consumer.ts";
import type { Health, Millstream, WhichConsumers } from "./application.ts";
import type { Loop } from "../messaging/loop.ts";
import type { Parts } from "./parts.ts";
import type { Saving } from "./sagas.ts";
import type { Started } from "./starting.ts";

/** The application's members that start and stop it. */
export interface Running extends Pick<Millstream, "start" | "health" | "close" | "pause" | "resume"> {
  /** Something may lie in the outbox. */
  committed(): void;
  /** Takes a loop that was started on demand, to watch it and to stop it with the others. */
  own(loop: Loop): void;
}

/** Creates them. */
export function running(parts: Parts, ask: Millstream["ask"], sagas: Saving): Running {
  const { store, broker, observer, registry } = parts;
  const started: Started = { relay: undefined, loops: [], consumers: [] };
  let starting: Promise<void> | undefined;
  let closing: Promise<void> | undefined;

  async function start(): Promise<void> {
    const { startAll } = await import("./starting.ts");
    await startAll(started, parts, ask, sagas);
  }

  async function closeAll(graceMs: number): Promise<void> {
    await starting?.catch(() => {});
    const all = disposer(); // closes last-in, first-out, all of them, also if one fails
    all.defer(async () => await store[Symbol.asyncDispose]());
    all.defer(async () => await broker[Symbol.asyncDispose]());
    all.defer(() => allSettled(started.loops.map((loop) => loop.stop())));
    all.defer(() => allSettled(started.consumers.map((consumer) => consumer.stop(graceMs))));
    await all.dispose();
  }

  function committed(): void {
    started.relay?.wake();
  }

  const close: Millstream["close"] = ({ graceMs = 10_000 } = {}) => closing ??= closeAll(graceMs);

  function consumers({ topic, group }: WhichConsumers): readonly Consumer[] {
    return started.consumers.filter((one) =>
      (topic === undefined || one.topic === topic) && (group === undefined || one.group === group)
    );
  }

  return {
    pause(which = {}) {
      const all = consumers(which);
      for (const consumer of all) consumer.pause();
      return all.length;
    },
    resume(which = {}) {
      const all = consumers(which);
      for (const consumer of all) consumer.resume();
      return all.length;
    },
    committed,
    own: (loop) => void started.loops.push(loop),
    close,
    async start({ signal } = {}) {
      if (closing) {
        throw new MillstreamError("CLOSED", "Cannot start the application again after it was closed");
      }
      registry.seal(true);
      starting ??= start().catch((failure) => {
        starting = undefined; // nothing runs yet: the same call may succeed later
        registry.seal(false);
        throw failure;
      });
      await starting;
      const onAbort = (): void =>
        void close().catch((failure) =>
          observer({ kind: "loop-failed", loop: "close", error: toError(failure) })
        );
      signal?.addEventListener("abort", onAbort, { once: true });
      if (signal?.aborted) await close();
    },
    async health(): Promise<Health> {
      const say = (ping: Promise<void>): Promise<string> =>
        ping.then(() => "ok", (failure) => toError(failure).message);
      const [storeState, brokerState] = await Promise.all([say(store.ping()), say(broker.ping())]);
      const states = [
        ...started.loops.map((loop) => loop.health()),
        ...started.consumers.flatMap((consumer) => consumer.health()),
      ];
      const isRunning = starting !== undefined && closing === undefined;
      const well = storeState === "ok" && brokerState === "ok" && states.every(({ healthy }) => healthy);
      return { ready: isRunning && well, store: storeState, broker: brokerState, loops: states };
    },
  };
}

async function allSettled(work: readonly Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(work)).find(({ status }) => status === "rejected");
  if (failed?.status === "rejected") throw failed.reason;
}
