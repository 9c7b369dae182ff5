/**
 * The life of a broker: what is the same for all that talk to a server.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { Broker, Subscription } from "./broker.ts";

/** How a broker ends. */
export interface BrokerEnd {
  /** Waits for what is under way. The broker refuses new calls by then; its subscriptions still work. */
  drain(): Promise<unknown>;
  /** Gives up what it holds. Its subscriptions are closed by then. */
  release(): Promise<unknown>;
}

/**
 * A broker that refuses every call with `CLOSED` once it is disposed, closes its subscriptions with it, and closes once,
 * however often it is disposed.
 */
export function closableBroker<Publish extends Broker["publish"]>(
  broker: Omit<Broker, "publish" | typeof Symbol.asyncDispose> & { readonly publish: Publish },
  end: BrokerEnd,
): Broker & { publish: Publish } {
  const open = new Set<Subscription>();
  let closing: Promise<void> | undefined;

  async function close(): Promise<void> {
    await end.drain();
    await Promise.all([...open].map((subscription) => subscription[Symbol.asyncDispose]()));
    await end.release();
  }

  function assertOpen(what: string): void {
    if (closing) throw new MillstreamError("CLOSED", `Cannot ${what}: the broker was closed`);
  }

  function whileOpen<Args extends unknown[], T>(
    what: string,
    work: (...args: Args) => Promise<T>,
  ): (...args: Args) => Promise<T> {
    return async (...args) => {
      assertOpen(what);
      return await work(...args);
    };
  }

  const subscribe: Broker["subscribe"] = async (...where) => {
    assertOpen("subscribe");
    const joined = await broker.subscribe(...where);
    const entered: Subscription = {
      ...joined,
      async [Symbol.asyncDispose]() {
        await joined[Symbol.asyncDispose]();
        open.delete(entered);
      },
    };
    open.add(entered);
    if (closing) await entered[Symbol.asyncDispose]();
    assertOpen("subscribe"); // it may have been closed meanwhile
    return entered;
  };

  const { deadLetters: dead, log, scheduled } = broker;
  return {
    ...broker,
    publish: whileOpen("publish", broker.publish) as Publish,
    subscribe,
    deadLetters: {
      list: whileOpen("list dead letters", dead.list),
      count: whileOpen("count dead letters", dead.count),
      get: whileOpen("get a dead letter", dead.get),
      redrive: whileOpen("redrive a dead letter", dead.redrive),
      remove: whileOpen("remove a dead letter", dead.remove),
    },
    ...(log ? { log: { read: whileOpen("read", log.read) } } : {}),
    ...(scheduled
      ? {
        scheduled: {
          cancel: whileOpen("cancel a message", scheduled.cancel),
          reschedule: whileOpen("reschedule a message", scheduled.reschedule),
        },
      }
      : {}),
    groups: whileOpen("list groups", broker.groups),
    ping: whileOpen("ping", broker.ping),
    [Symbol.asyncDispose]: () => closing ??= close(),
  };
}
