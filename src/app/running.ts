/**
 * What runs by itself: starting it, its health, stopping it.
 *
 * @module
 */
import { disposer } from "../core/dispose.ts";
import { MillstreamError, toError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import { type Consumer, consumerOptions, startConsumer } from "../messaging/consumer.ts";
import type { Loop } from "../messaging/loop.ts";
import { startRelay } from "../messaging/relay.ts";
import type { Health, Millstream } from "./application.ts";
import { deliveryHandler } from "./deliveries.ts";
import type { Parts } from "./parts.ts";
import type { Saving } from "./sagas.ts";

/** The application's members that start and stop it. */
export interface Running extends Pick<Millstream, "start" | "health" | "close"> {
  /** Something may lie in the outbox. */
  committed(): void;
}

/** Creates them. */
export function running(parts: Parts, ask: Millstream["ask"], sagas: Saving): Running {
  const { store, broker, observer, registry } = parts;
  const loops: Loop[] = [];
  const consumers: Consumer[] = [];
  let relay: Loop | undefined;
  let starting: Promise<void> | undefined;
  let closing: Promise<void> | undefined;

  async function startAll(): Promise<void> {
    const { clock, owner, random, retry, factory, limits, commands } = parts;
    await store.start();
    relay = startRelay({ store, publisher: broker, clock, observer, owner });
    loops.push(relay);
    if (registry.projections.size > 0) {
      // Loaded on demand, as the next one: most applications at the edge run neither projections nor sagas.
      const { startProjections } = await import("../sourcing/projection_runner.ts");
      loops.push(...await startProjections({ store, clock, observer, owner, random }, registry.projections));
    }
    const orchestrator = await sagas.run();
    if (orchestrator) loops.push(orchestrator);
    const dispatch = (command: Message): Promise<unknown> => commands.dispatch(command);
    const delivering = { store, factory, clock, observer, limits, committed, ask, dispatch };
    for (const member of registry.members.values()) {
      const { topic, group, options } = member;
      const own = consumerOptions({ ...(retry ? { retry } : {}), ...options });
      const handle = deliveryHandler(delivering, member);
      consumers.push(startConsumer({ broker, clock, observer, random }, { topic, group }, own, handle));
    }
  }

  async function closeAll(graceMs: number): Promise<void> {
    await starting?.catch(() => {});
    const all = disposer(); // closes last-in, first-out, all of them, also if one fails
    all.defer(async () => await store[Symbol.asyncDispose]());
    all.defer(async () => await broker[Symbol.asyncDispose]());
    all.defer(() => allSettled(loops.map((loop) => loop.stop())));
    all.defer(() => allSettled(consumers.map((consumer) => consumer.stop(graceMs))));
    await all.dispose();
  }

  function committed(): void {
    relay?.wake();
  }

  const close: Millstream["close"] = ({ graceMs = 10_000 } = {}) => closing ??= closeAll(graceMs);

  return {
    committed,
    close,
    async start({ signal } = {}) {
      if (closing) {
        throw new MillstreamError("CLOSED", "Cannot start the application again after it was closed");
      }
      if (!starting) sagas.complete();
      registry.seal(true);
      starting ??= startAll().catch((failure) => {
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
        ...loops.map((loop) => loop.health()),
        ...consumers.flatMap((consumer) => consumer.health()),
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
