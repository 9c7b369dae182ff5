/**
 * The fault simulator: runs an application on simulated servers, lets it fail at every boundary in turn, and says which
 * failure broke what.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { describe, isMillstreamError, toError } from "../../core/errors.ts";
import type { Clock } from "../../core/clock.ts";
import type { Millstream } from "../../app/application.ts";
import { memoryStore } from "../../memory/store.ts";
import type { Broker } from "../../ports/broker.ts";
import type { Store } from "../../ports/store.ts";
import { fail } from "../assert.ts";
import { moveOn, onward, unrest } from "../settled.ts";
import { virtualClock } from "../virtual_clock.ts";
import {
  EVERY_FAULT,
  type Fault,
  type FaultPlan,
  type FaultPoint,
  seededFaults,
  seededRandom,
  singleFault,
} from "./faults.ts";
import { type SimulatedProcess, simulatedProcess } from "./process.ts";

/** What is simulated. Made anew for each run, so that what it keeps outside the application begins empty. */
export interface Scenario {
  /** Builds the application of one process. Called again after each crash. */
  app(parts: ProcessParts): Millstream;
  /**
   * What a client does. A client repeats what failed, so it runs until it resolves once: give commands and messages
   * ids of their own, as a real client has to.
   */
  act(app: Millstream): Promise<unknown>;
  /** Throws if something is not as it must be. Called when everything is quiet. */
  check(app: Millstream): void | Promise<void>;
}

/** What one process is made of. */
export interface ProcessParts {
  readonly store: Store;
  readonly broker: Broker;
  readonly clock: Clock;
  readonly random: () => number;
  /**
   * Calls another system. `work` is what that system does: it happens at once and is never undone; the process may
   * die before or after it, or not hear the answer.
   */
  call<T>(system: string, work: () => T | Promise<T>): Promise<T>;
}

/** Options of {@linkcode simulate}. */
export interface SimulateOptions {
  /** What is tried at every boundary. @default crash before, crash after, lost reply, unavailable, pause */
  readonly faults?: readonly Fault[];
  /** Runs with several faults and delays at random, beside those with one fault each. @default 20 */
  readonly schedules?: number;
  /** Seed of the first of those; each has the next one. @default 1 */
  readonly seed?: number;
  /** Processes that run the application at the same time, in those runs. @default 2 */
  readonly processes?: number;
  /** How long a run may take until all is quiet, in virtual milliseconds. @default 3_600_000 */
  readonly withinMs?: number;
}

/** What {@linkcode simulate} found. */
export interface SimulationReport {
  readonly runs: number;
  /** The boundaries of a run in which nothing goes wrong: each was a point of failure. */
  readonly boundaries: readonly string[];
  /** The runs that broke something. Empty is what you want. */
  readonly failures: readonly SimulationFailure[];
}

/** A run that broke something. */
export interface SimulationFailure {
  /** In words: `crash after broker.publish (7)`. */
  readonly what: string;
  /** What `check` threw, or why the run came to no end. */
  readonly error: Error;
  /** Hand it to {@linkcode replay} to see it again. */
  readonly replay: Replay;
}

/** A run that can be repeated. */
export type Replay = { readonly point: FaultPoint } | { readonly seed: number; readonly processes: number };

/** How long a client waits before it repeats what failed, in virtual milliseconds. */
const CLIENT_PAUSE_MS = 100;
/** Moves of the clock after which a run has gone wrong. */
const MAX_MOVES = 100_000;

/**
 * Runs the scenario once without faults, then once for each fault at each boundary (a write to the store or broker, a
 * commit, a call to another system), then under seeded schedules. After a crash the application is started again on
 * the same servers; leases run out, messages come again, clients repeat.
 *
 * Everything runs in this process, in memory, on a virtual clock: hours of waiting cost nothing. It finds what breaks
 * in the handlers, not in the servers; for those there are the conformance suites.
 *
 * @example
 * ```ts ignore
 * const report = await simulate(() => {
 *   const charges: string[] = [];
 *   return {
 *     app: ({ store, broker, clock, call }) =>
 *       millstream({ store, broker, clock }).on(OrderPlaced, { group: "billing" }, (_, ctx) =>
 *         call("payments", () => void (charges.includes(ctx.idempotencyKey) || charges.push(ctx.idempotencyKey)))),
 *     act: (app) => app.publish(OrderPlaced, { orderId: "o-1" }, { id: "m-1" }),
 *     check: () => assert.equal(charges.length, 1),
 *   };
 * });
 * assert.deepEqual(report.failures, []);
 * ```
 * @throws what `check` throws where nothing goes wrong: then it is the scenario that is wrong.
 */
export async function simulate(
  scenario: () => Scenario,
  options: SimulateOptions = {},
): Promise<SimulationReport> {
  const { faults = EVERY_FAULT, schedules = 20, seed = 1, processes = 2 } = options;
  checkRange("schedules", schedules, 0, 1_000_000, true);
  checkRange("processes", processes, 1, 100, true);
  const healthy = singleFault();
  await run(scenario(), healthy, { ...options, processes: 1 });
  const boundaries = healthy.passed;
  const failures: SimulationFailure[] = [];
  let runs = 1;

  async function attempt(plan: FaultPlan, count: number, again: Replay): Promise<void> {
    runs++;
    try {
      await run(scenario(), plan, { ...options, processes: count });
    } catch (thrown) {
      const struck = plan.struck.map(({ fault, boundary, at }) => `${fault.kind} ${boundary} (${at})`);
      failures.push({ what: struck.join(", ") || "delays", error: toError(thrown), replay: again });
    }
  }

  for (let at = 1; at <= boundaries.length; at++) {
    for (const fault of faults) {
      const point = { at, fault };
      await attempt(singleFault(point), 1, { point });
    }
  }
  for (let next = seed; next < seed + schedules; next++) {
    await attempt(seededFaults(next, boundaries.length), processes, { seed: next, processes });
  }
  return { runs, boundaries, failures };
}

/** Runs one failure of a report again. Rejects as it did. */
export async function replay(
  scenario: () => Scenario,
  again: Replay,
  options: Pick<SimulateOptions, "withinMs"> = {},
): Promise<void> {
  if ("point" in again) return await run(scenario(), singleFault(again.point), { ...options, processes: 1 });
  const healthy = singleFault();
  await run(scenario(), healthy, { ...options, processes: 1 });
  const plan = seededFaults(again.seed, healthy.passed.length);
  await run(scenario(), plan, { ...options, processes: again.processes });
}

interface Member {
  readonly running: SimulatedProcess;
  readonly app: Millstream;
  readonly started: Promise<void>;
}

async function run(
  scenario: Scenario,
  plan: FaultPlan,
  { processes, withinMs = 3_600_000 }: { readonly processes: number; readonly withinMs?: number },
): Promise<void> {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const broker = store.broker();
  const random = seededRandom(1);
  const members: Member[] = Array.from({ length: processes }, start);
  const look = unrest({ store, broker, declared: members[0]!.app.declared });
  let acted = false;
  let over = false;
  let acting: object | undefined;
  let failure: unknown;

  function start(): Member {
    const running = simulatedProcess(
      { store, clock },
      (boundary) => over ? undefined : plan.faultAt(boundary),
    );
    const { broker: own, call } = running;
    const app = scenario.app({ store: running.store, broker: own, clock: running.clock, random, call });
    const started = app.start();
    started.catch(() => running.kill()); // a process that cannot start ends, and another one is started
    return { running, app, started };
  }

  /** The client: as long as it got no answer, it asks again. */
  function act(): void {
    const member = members[0]!;
    const current = acting = {};
    member.started.then(() => scenario.act(member.app)).then(
      () => acted = true,
      (thrown) => {
        failure = thrown;
        clock.after(CLIENT_PAUSE_MS, () => acting = acting === current ? undefined : acting);
      },
    );
  }

  try {
    let calm = 0;
    for (let moves = 0; calm < 2; moves++) {
      members.forEach(({ running }, at) => {
        if (!running.dead) return;
        members[at] = start();
        if (at === 0) acting = undefined;
      });
      if (!acted && !acting) act();
      await background();
      const reason = acted ? await onward(clock, look()) : `the client has no answer yet${said(failure)}`;
      const alive = members.every(({ running }) => !running.dead);
      calm = alive && reason === undefined ? calm + 1 : 0;
      if (reason !== undefined && (clock.monotonic() > withinMs || moves > MAX_MOVES)) {
        fail(`Not quiet after ${Math.round(clock.monotonic())} ms and ${moves} steps: ${reason}`);
      }
      if (calm < 2) await moveOn(clock);
    }
    over = true;
    await onward(clock, Promise.resolve(scenario.check(members[0]!.app)));
  } finally {
    for (const { running } of members) running.kill();
    await broker[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  }
}

/** Hashing runs on another thread, in the order in which it was asked for: when this is done, what came before is. */
async function background(): Promise<void> {
  await crypto.subtle.digest("SHA-1", new Uint8Array(1));
}

function said(failure: unknown): string {
  if (failure === undefined) return "";
  return `: ${isMillstreamError(failure) ? failure.code : ""} ${describe(toError(failure).message)}`;
}
