/**
 * The embedded default: a store in memory that is loaded with its first use, so that applications with a store of
 * their own do not carry it.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { later } from "../core/later.ts";
import type { Broker } from "../ports/broker.ts";
import type { Sql } from "../ports/sql.ts";
import type { Store } from "../ports/store.ts";

/** A store in memory, with its broker. */
export function embeddedStore(clock: Clock): Store {
  let loading: Promise<Store> | undefined;
  let opening: Promise<Broker> | undefined;
  let closed = false;
  const store = (): Promise<Store> => {
    if (closed && !loading) return Promise.reject(closedError());
    return loading ??= import("../memory/store.ts").then((memory) => memory.memoryStore({ clock }));
  };
  const broker = (): Promise<Broker> => opening ??= store().then((loaded) => loaded.broker());
  const port = <Name extends keyof Store>(name: Name): Store[Name] =>
    later(() => store().then((loaded) => loaded[name] as object)) as Store[Name];

  return {
    name: "memory",
    events: port("events"),
    outbox: port("outbox"),
    outboxDeadLetters: port("outboxDeadLetters"),
    inbox: port("inbox"),
    checkpoints: port("checkpoints"),
    leases: port("leases"),
    projections: port("projections"),
    snapshots: port("snapshots"),
    sagas: port("sagas"),
    idempotency: port("idempotency"),
    sql: noSql as unknown as Sql,
    start: async () => await (await store()).start(),
    ping: async () => await (await store()).ping(),
    transaction: async (work) => await (await store()).transaction(work),
    broker: () => ({
      features: {
        name: "memory",
        persistent: false,
        replay: true,
        keyOrder: true,
        delay: true,
        deduplicates: true,
        fencedAck: true,
        replaySince: true,
        countsStarts: true,
        listsGroups: true,
        reschedules: true,
        reasons: {},
      },
      publish: async (...call) => await (await broker()).publish(...call),
      subscribe: async (...call) => await (await broker()).subscribe(...call),
      ping: async () => await (await broker()).ping(),
      groups: async (...call) => await (await broker()).groups(...call),
      deadLetters: later(() => broker().then(({ deadLetters }) => deadLetters)),
      log: later(() => broker().then(({ log }) => log!)),
      scheduled: later(() => broker().then(({ scheduled }) => scheduled!)),
      [Symbol.asyncDispose]: async () => await (await opening)?.[Symbol.asyncDispose](),
    }),
    async [Symbol.asyncDispose]() {
      closed = true;
      await (await loading)?.[Symbol.asyncDispose]();
    },
  };
}

function closedError(): MillstreamError {
  return new MillstreamError("CLOSED", 'Cannot use store "memory": it was closed');
}

/** A statement that fails when it is awaited. */
function noSql(): PromiseLike<never> {
  const failure = new MillstreamError(
    "UNSUPPORTED",
    'Cannot run SQL on store "memory": expected Postgres or PGlite',
  );
  return { then: (resolve, reject) => Promise.reject<never>(failure).then(resolve, reject) };
}
