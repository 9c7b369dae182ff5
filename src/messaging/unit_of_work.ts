/**
 * A unit of work: what a handler publishes, appends and writes, committed in one transaction or not at all.
 *
 * The transaction begins with the first append or SQL statement. A handler that only publishes, or does neither, holds
 * no session while it runs, so that slow calls to other systems never happen inside a transaction.
 *
 * @module
 */
import type { AnyEvent, NewEvent } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import type { MessageOptions } from "../core/message.ts";
import type { AppendResult, ExpectedVersion } from "../ports/event_store.ts";
import type { OutboxMessage } from "../ports/outbox.ts";
import type { Sql, SqlFragment, SqlQuery, SqlRow, SqlValue } from "../ports/sql.ts";
import type { Store, StorePorts } from "../ports/store.ts";
import type { Effects } from "./context.ts";
import type { MessageFactory } from "./factory.ts";

/** What to do in the transaction besides the handler's own effects. */
export interface UnitOptions {
  /** Runs first in the transaction: the inbox row, the lease, the saga's fence. What it throws rolls back everything. */
  readonly before?: (ports: StorePorts) => Promise<void>;
  /** Runs last in the transaction: the state that is saved with the effects. `position` is that of the last event appended. */
  readonly after?: (ports: StorePorts, position: bigint | undefined) => Promise<void>;
  /** Whether to open the transaction even if there are no effects, because `after` must be saved. @default false */
  readonly always?: boolean;
  /** What messages created here inherit. */
  readonly inherit: MessageOptions;
  /** Makes the ids of what is created here the same at each try. @default random ids */
  readonly idFor?: (index: number) => Promise<string>;
}

/** What a unit of work came to. */
export interface UnitOutcome<T> {
  readonly value: T;
  /** Position of the last event appended, if any was. */
  readonly position: bigint | undefined;
  /** Whether anything was put in the outbox. */
  readonly published: boolean;
}

/**
 * Runs `work` and commits its effects.
 *
 * @throws what `work` threw, with nothing committed; or what the commit failed with.
 */
export async function unitOfWork<T>(
  store: Store,
  factory: MessageFactory,
  options: UnitOptions,
  work: (effects: Effects) => Promise<T>,
): Promise<UnitOutcome<T>> {
  const staged: Array<Promise<OutboxMessage>> = [];
  const appending: Array<Promise<AppendResult>> = [];
  let position: bigint | undefined;
  let published = false;
  let created = 0;
  let ended = false;

  // The transaction's work waits until the handler has ended, and then commits or rolls back.
  let opened: Promise<StorePorts> | undefined;
  let committed: Promise<void> | undefined;
  let commit = (): void => {};
  let rollback = (_failure: unknown): void => {};

  function open(): Promise<StorePorts> {
    if (ended) {
      return Promise.reject(
        new MillstreamError("CLOSED", "Cannot use the context after its handler has ended"),
      );
    }
    return opened ??= new Promise<StorePorts>((resolve, reject) => {
      const handled = new Promise<void>((succeed, fail) => {
        commit = succeed;
        rollback = fail;
      });
      handled.catch(() => {}); // not awaited where the transaction failed first
      committed = store.transaction(async (ports) => {
        await options.before?.(ports);
        resolve(ports);
        await handled;
        if (staged.length > 0) await ports.outbox.add(await Promise.all(staged));
        await options.after?.(ports, position);
      });
      committed.catch(reject);
    });
  }

  async function stamp(messageOptions: MessageOptions): Promise<MessageOptions> {
    const merged = { ...options.inherit, ...messageOptions };
    const index = created++;
    return merged.id !== undefined || !options.idFor ? merged : { ...merged, id: await options.idFor(index) };
  }

  async function append(
    stream: string,
    events: readonly NewEvent[],
    expected: ExpectedVersion,
  ): Promise<AppendResult> {
    if (ended) throw new MillstreamError("CLOSED", "Cannot append after the handler has ended");
    const stamps = await Promise.all(events.map((event) => stamp(event.options)));
    const encoded = await Promise.all(events.map((event, at) => factory.toAppend(event, stamps[at]!)));
    const ports = await open();
    const [result] = await ports.events.append([{ stream, expected, events: encoded }]);
    position = result!.position;
    published = true;
    return result!;
  }

  async function stage(
    messageOptions: MessageOptions,
    make: (stamped: MessageOptions) => Promise<OutboxMessage>,
  ): Promise<void> {
    if (ended) throw new MillstreamError("CLOSED", "Cannot publish after the handler has ended");
    const message = stamp(messageOptions).then(make);
    message.catch(() => {}); // reported by the line below, and again at the commit if the handler swallows it
    staged.push(message);
    published = true;
    await message;
  }

  const effects: Effects = {
    publish: (definition, data, messageOptions = {}) =>
      stage(messageOptions, async (stamped) => ({
        ...(await factory.event(definition as AnyEvent, data, stamped)),
        topic: definition.topic,
      })),
    send: (definition, data, messageOptions = {}) =>
      stage(messageOptions, (stamped) => factory.toSend(definition, data, stamped)),
    append(stream, events, expected = "any") {
      const appended = append(stream, events, expected);
      appended.catch(() => {}); // reported where it is awaited, by the handler or below
      appending.push(appended);
      return appended;
    },
    sql: lazySql(store.sql, async () => (await open()).sql),
  };

  try {
    const value = await work(effects);
    await Promise.all(appending); // also those that the handler did not wait for
    if (staged.length > 0 || options.always) await open();
    ended = true;
    commit();
    await committed;
    return { value, position, published };
  } catch (failure) {
    ended = true;
    rollback(failure);
    await committed?.catch(() => {});
    throw failure;
  }
}

/** A tag that builds on one session and runs on another, which is only opened when a statement is awaited. */
function lazySql(outside: Sql, inside: () => Promise<Sql>): Sql {
  function tag(first: unknown, ...values: readonly (SqlValue | SqlFragment)[]): unknown {
    if (!isTemplate(first)) return outside(first as string);
    let running: Promise<readonly SqlRow[]> | undefined;
    const query: SqlQuery = {
      ...outside(first, ...values), // what makes it a fragment that can stand inside another statement
      then: (resolve, reject) =>
        (running ??= inside().then((sql) => sql(first, ...values))).then(resolve, reject),
    };
    return query;
  }
  return tag as Sql;
}

function isTemplate(value: unknown): value is TemplateStringsArray {
  return Array.isArray(value) && Array.isArray((value as { raw?: unknown }).raw);
}
