/**
 * A process that can be killed: a store, a broker and a clock that stop answering, in the midst of anything.
 *
 * @module
 */
import { type Clock, sleep } from "../../core/clock.ts";
import { MillstreamError } from "../../core/errors.ts";
import type { Broker } from "../../ports/broker.ts";
import type { Store, StorePorts } from "../../ports/store.ts";
import type { Fault } from "./faults.ts";

/** What all processes of a simulation share: the "servers". */
export interface SimulatedServers {
  readonly store: Store;
  readonly clock: Clock;
}

/** One process. */
export interface SimulatedProcess {
  readonly store: Store;
  readonly broker: Broker;
  readonly clock: Clock;
  /** Runs a call to another system. */
  call<T>(name: string, work: () => T | Promise<T>): Promise<T>;
  readonly dead: boolean;
  /** From now on it does nothing, and nothing reaches it. */
  kill(): void;
}

/**
 * What writes nothing, or only makes a lease last. Everything else is a boundary: only there can a crash leave something
 * half done, and between two of them all moments are alike.
 */
const READS: ReadonlySet<string> = new Set([
  ...[
    "load",
    "list",
    "get",
    "count",
    "parked",
    "countParked",
    "signals",
    "pending",
    "oldestAgeMs",
    "seen",
    "changed",
  ],
  ...["readStream", "readAll", "readMatching", "describeStream", "head", "has", "read"],
  ...["subscribe", "pull", "lag", "groups", "ping", "status"],
  ...["renew", "extend", "assert"],
]);

/**
 * Starts a process.
 *
 * @param faultAt Asked at each boundary, before something is written or another system is called, by its name.
 */
export function simulatedProcess(
  { store, clock }: SimulatedServers,
  faultAt: (boundary: string) => Fault | undefined,
): SimulatedProcess {
  const transactions = new Set<(crash: Error) => void>();
  let dead = false;
  let pausedUntil = 0;

  function kill(): void {
    dead = true;
    for (const rollBack of transactions) rollBack(new Error("The process died"));
    transactions.clear();
  }

  /** As long as the process is paused, nothing in it goes on. */
  async function awake(): Promise<void> {
    while (!dead && pausedUntil > clock.monotonic()) await sleep(clock, pausedUntil - clock.monotonic());
    if (dead) await never();
  }

  async function before(boundary: string): Promise<Fault | undefined> {
    await awake();
    const fault = faultAt(boundary);
    if (fault?.kind === "crash before") kill();
    if (fault?.kind === "pause") pausedUntil = clock.monotonic() + fault.ms;
    if (fault?.kind === "delay") await sleep(clock, fault.ms);
    await awake();
    if (fault?.kind === "unavailable") throw unavailable(boundary);
    return fault;
  }

  async function after(fault: Fault | undefined, lost: Error): Promise<void> {
    if (fault?.kind === "crash after") kill();
    await awake();
    if (fault?.kind === "lost reply") throw lost;
  }

  async function step<T>(boundary: string, work: () => T | Promise<T>, lost: Error): Promise<T> {
    const fault = await before(boundary);
    const result = await work();
    await after(fault, lost);
    return result;
  }

  /** A port whose methods are boundaries where they write, and stop answering with the process. */
  function port<T extends object>(name: string, target: T, lost: Error): T {
    return new Proxy(target, {
      get(_, member) {
        const value: unknown = Reflect.get(target, member);
        if (typeof value !== "function") return value;
        const boundary = `${name}.${String(member)}`;
        return async (...call: unknown[]) => {
          const work = async (): Promise<unknown> => await value.apply(target, call);
          const isWrite = typeof member === "string" && !READS.has(member);
          if (isWrite) return await step(boundary, work, lost);
          await awake();
          const result = await work();
          await awake();
          return result;
        };
      },
    });
  }

  function ports(of: StorePorts): StorePorts {
    const lost = commitLost();
    return {
      events: port("events", of.events, lost),
      outbox: port("outbox", of.outbox, lost),
      outboxDeadLetters: port("outboxDeadLetters", of.outboxDeadLetters, lost),
      inbox: port("inbox", of.inbox, lost),
      checkpoints: port("checkpoints", of.checkpoints, lost),
      leases: port("leases", of.leases, lost),
      projections: port("projections", of.projections, lost),
      snapshots: port("snapshots", of.snapshots, lost),
      sagas: port("sagas", of.sagas, lost),
      idempotency: port("idempotency", of.idempotency, lost),
      sql: of.sql,
    };
  }

  async function transaction<T>(work: (ports: StorePorts) => Promise<T>): Promise<T> {
    await awake();
    let rollBack = (_crash: Error): void => {};
    const died = new Promise<never>((_, reject) => rollBack = reject);
    died.catch(() => {});
    transactions.add(rollBack);
    let fault: Fault | undefined;
    const run = async (inside: StorePorts): Promise<T> => {
      const result = await work(ports(inside));
      fault = await before("store.commit"); // while it can still be rolled back
      return result;
    };
    try {
      const result = await store.transaction((inside) => Promise.race([run(inside), died]));
      await after(fault, commitLost());
      return result;
    } catch (failure) {
      await awake(); // the dead are told nothing
      throw failure;
    } finally {
      transactions.delete(rollBack);
    }
  }

  function connect(): Broker {
    const broker = store.broker();
    const through = port("broker", broker, publishLost());
    return new Proxy(through, {
      get(_, member) {
        if (member === "subscribe") {
          return async (...call: Parameters<Broker["subscribe"]>) =>
            port("subscription", await through.subscribe(...call), unavailable("the reply"));
        }
        const value: unknown = Reflect.get(through, member);
        const isPort = typeof value === "object" && value !== null && member !== "features";
        return isPort ? port(String(member), value, unavailable("the reply")) : value;
      },
    });
  }

  const broker = connect();
  return {
    broker,
    store: {
      ...ports(store),
      name: store.name,
      start: () => store.start(),
      ping: () => store.ping(),
      transaction,
      broker: () => broker,
      [Symbol.asyncDispose]: async () => {}, // the servers outlive every process
    },
    clock: {
      now: () => clock.now(),
      monotonic: () => clock.monotonic(),
      after(ms, callback) {
        return clock.after(ms, function fire() {
          if (dead) return;
          if (pausedUntil > clock.monotonic()) clock.after(pausedUntil - clock.monotonic(), fire);
          else callback();
        });
      },
    },
    call: (name, work) => step(`call ${name}`, work, new Error(`No reply from ${name}`)),
    get dead() {
      return dead;
    },
    kill,
  };
}

function never(): Promise<never> {
  return new Promise(() => {});
}

function commitLost(): MillstreamError {
  return new MillstreamError("COMMIT_INDETERMINATE", "Cannot say whether it happened: the reply was lost");
}

function publishLost(): MillstreamError {
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    "Cannot say whether it was published: the reply was lost",
  );
}

function unavailable(what: string): MillstreamError {
  return new MillstreamError("UNAVAILABLE", `Cannot reach the server for ${what}`);
}
