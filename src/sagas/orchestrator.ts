/**
 * The orchestrator: drives saga instances, step by step, on any process that has the saga.
 *
 * The intent of a step is saved before it runs and its outcome in the transaction of its effects, both fenced by the
 * claim's epoch. After a crash another process claims the instance when the lease has run out, and the step in doubt
 * runs again under the same idempotency key.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { MillstreamError } from "../core/errors.ts";
import { type Loop, type LoopHealth, startLoop } from "../messaging/loop.ts";
import { type ClaimedSaga, isFinal, type SagaInstance } from "../ports/saga_store.ts";
import type { Move } from "./advance.ts";
import type { Saga } from "./definition.ts";
import { type Drive, drive } from "./drive.ts";
import { observe, type SagaParts, type SagaRunOptions } from "./parts.ts";
import { createSaver } from "./saver.ts";

/** A running orchestrator. */
export interface Orchestrator extends Loop {
  /** Whether this process drives an instance just now. */
  isDriving(id: string): boolean;
  /** Keeps a slot for an instance that is created here and now, or `undefined` if all are taken. */
  reserve(): Reservation | undefined;
  /** Calls back when this process has brought the instance to an end. Returns how to stop listening. */
  onEnd(id: string, listener: (instance: SagaInstance) => void): () => void;
}

/** A slot for a new instance. To be used or given up. */
export interface Reservation {
  readonly owner: string;
  readonly leaseMs: number;
  drive(claim: ClaimedSaga, intended: readonly Move[]): void;
  giveUp(): void;
}

/** Instances of other kinds that fall due, and what drives them. */
export type OtherDrivers = ReadonlyMap<string, (claim: ClaimedSaga) => Promise<void>>;

/** How often it looks for instances past their deadline. */
const STUCK_MS = 5_000;

/** Drives all instances of `sagas` until stopped. @throws `INVALID_ARGUMENT` for an option out of range. */
export function startOrchestrator(
  parts: SagaParts,
  sagas: ReadonlyMap<string, Saga>,
  options: SagaRunOptions = {},
  others: OtherDrivers = new Map(),
): Orchestrator {
  const { concurrency = 32, leaseMs = 10_000, pollMs = 200 } = options;
  checkRange("sagas.concurrency", concurrency, 1, 10_000, true);
  checkRange("sagas.leaseMs", leaseMs, 100, 3_600_000);
  checkRange("sagas.pollMs", pollMs, 1, 60_000);
  const { store, clock, observer, owner } = parts;
  const saver = createSaver(parts);
  const driving = new Map<string, Drive>();
  const listeners = new Map<string, Set<(instance: SagaInstance) => void>>();
  const names = [...sagas.keys(), ...others.keys()];
  let reserved = 0;
  let more = false; // there may be more than was taken at the last look
  let cancelRenewal: (() => void) | undefined;
  let stopping = false;
  let stuck: readonly SagaInstance[] = [];
  let stuckAt = -Infinity;

  const loop = startLoop({ name: "sagas", clock, observer, periodMs: 5_000 }, async () => {
    if (clock.monotonic() - stuckAt >= STUCK_MS) await lookForStuck();
    const free = concurrency - driving.size - reserved;
    const claimed = free > 0 ? await store.sagas.claim(names, owner, leaseMs, free) : [];
    more = free <= 0 || claimed.length === free;
    for (const claim of claimed) begin(claim);
    return pollMs;
  });

  function begin(claim: ClaimedSaga, intended?: readonly Move[]): void {
    const other = others.get(claim.instance.saga);
    const one = other
      ? { claim, finished: other(claim).then(() => claim.instance), stop: () => {} }
      : drive(parts, saver, sagas.get(claim.instance.saga), claim, intended);
    driving.set(claim.instance.id, one);
    if (stopping) one.stop(shutdown());
    cancelRenewal ??= clock.after(leaseMs / 3, () => void renewAll());
    void one.finished.then((instance) => {
      if (driving.get(instance.id) === one) driving.delete(instance.id);
      if (isFinal(instance.status)) { for (const tell of listeners.get(instance.id) ?? []) tell(instance); }
      if (driving.size === 0) stopRenewal();
      // A few at a time: one look for each that ended would cost more than the sagas.
      if (more && concurrency - driving.size - reserved >= Math.min(8, concurrency)) loop.wake();
    });
  }

  function stopRenewal(): void {
    cancelRenewal?.();
    cancelRenewal = undefined;
  }

  async function renewAll(): Promise<void> {
    const held = [...driving.values()];
    try {
      const kept = await store.sagas.renew(held.map(({ claim }) => claim), leaseMs);
      held.forEach((one, index) => {
        if (kept[index] || driving.get(one.claim.instance.id) !== one) return;
        observer({ kind: "lease-lost", what: "saga", id: one.claim.instance.id });
        one.stop(leaseLost(one.claim));
      });
    } catch {
      // The store was away for a moment; each save has the last word.
    }
    cancelRenewal = driving.size > 0 ? clock.after(leaseMs / 3, () => void renewAll()) : undefined;
  }

  async function lookForStuck(): Promise<void> {
    const found = await store.sagas.list({ overdueAt: clock.now(), limit: 100 });
    stuckAt = clock.monotonic();
    const known = new Set(stuck.map(({ id }) => id));
    for (const instance of found) {
      if (!known.has(instance.id)) observe(parts, instance, undefined, "stuck");
    }
    stuck = found;
  }

  function health(): LoopHealth {
    if (stuck.length === 0) return loop.health();
    const count = stuck.length < 100 ? stuck.length : "100 or more";
    return { ...loop.health(), warning: `${count} sagas are past their deadline: ${stuck[0]!.id}, ...` };
  }

  function reserve(): Reservation | undefined {
    if (stopping || driving.size + reserved >= concurrency) {
      more = true;
      return undefined;
    }
    reserved++;
    return {
      owner,
      leaseMs,
      drive(claim, intended) {
        reserved--;
        begin(claim, intended);
      },
      giveUp: () => void reserved--,
    };
  }

  return {
    ...loop,
    health,
    reserve,
    isDriving: (id) => driving.has(id),
    onEnd(id, listener) {
      const own = listeners.get(id) ?? new Set();
      listeners.set(id, own.add(listener));
      return () => {
        own.delete(listener);
        if (own.size === 0 && listeners.get(id) === own) listeners.delete(id);
      };
    },
    async stop() {
      stopping = true;
      await loop.stop();
      for (const one of driving.values()) one.stop(shutdown());
      await Promise.all([...driving.values()].map(({ finished }) => finished));
      stopRenewal();
    },
  };
}

function shutdown(): Error {
  return new DOMException("Shutting down", "AbortError");
}

function leaseLost({ instance }: ClaimedSaga): MillstreamError {
  return new MillstreamError("LEASE_LOST", `Cannot go on with saga "${instance.id}": its lease was lost`);
}
