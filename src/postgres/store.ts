/**
 * The store on Postgres: every port on one session, and the transaction that binds them.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { type Clock, systemClock, withDeadline } from "../core/clock.ts";
import { disposer } from "../core/dispose.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Broker } from "../ports/broker.ts";
import type { SqlDriver, SqlSession, SqlValue } from "../ports/sql.ts";
import type { Store, StorePorts } from "../ports/store.ts";
import { postgresBroker } from "./broker/broker.ts";
import { checkpoints } from "./checkpoints.ts";
import type { Scope, StoreContext } from "./context.ts";
import { continuity } from "./events/continuity.ts";
import { eventStore } from "./events/event_store.ts";
import { alignPositions } from "./events/positions.ts";
import { type AppendQueue, appendQueue } from "./events/queue.ts";
import { type WatermarkStatus, watermarkStatus } from "./events/status.ts";
import { idempotencyKeys } from "./idempotency.ts";
import { encodeValues } from "./drivers/values.ts";
import { inbox } from "./inbox.ts";
import { leases } from "./leases.ts";
import { maintenance, type Pruned } from "./maintenance.ts";
import { checkMigrated, migrate, quoteSchema } from "./migrate.ts";
import { outbox } from "./outbox.ts";
import { outboxDeadLetters } from "./outbox_dead_letters.ts";
import { projections } from "./projections.ts";
import { sagas } from "./sagas.ts";
import { snapshots } from "./snapshots.ts";
import { sqlTag } from "./tag.ts";
import { createBell, createBells } from "./wakeup.ts";
import { watermark } from "./watermark.ts";

/** Options of every Postgres store, whatever the client. */
export interface StoreOptions {
  /** The Postgres schema that holds the tables: up to 41 of `a-z 0-9 _`. @default "millstream" */
  readonly schema?: string;
  /** Whether `start` brings the schema up to date; if not, it only checks that it is. @default true */
  readonly migrate?: boolean;
  /** How long a message stays after every group has finished it, in milliseconds. @default 7 days */
  readonly retentionMs?: number;
  /** How long an outbox message stays after it was sent, in milliseconds. @default 1 day */
  readonly outboxRetentionMs?: number;
  /**
   * How long a group remembers what it handled, in milliseconds. Must exceed the longest time after which a message can
   * come again, redriven from the dead letters included. @default 30 days
   */
  readonly inboxRetentionMs?: number;
  /** How long a saga stays that has completed or was compensated, from its start, in milliseconds. @default 30 days */
  readonly sagaRetentionMs?: number;
  /** The longest time between two looks for news from other processes, in milliseconds. @default 250 */
  readonly pollMs?: number;
  /** For waiting only: times that are kept come from the database. @default the runtime's */
  readonly clock?: Clock;
}

/** A store on Postgres. */
export interface PostgresStore extends Store {
  /** One round of the housekeeping that otherwise happens by itself now and then. Bounded work. */
  prune(): Promise<Pruned>;

  /**
   * The ports on a transaction that the caller has opened with a client of his own: what they write commits with it, or
   * not at all. It must be READ COMMITTED and on this database, and be waited for before the ports are used again. This
   * store is not told of the commit: what was appended or put in the outbox is noticed at the next look, within
   * `pollMs` or 100 ms.
   *
   * @example
   * ```ts ignore
   * await sql.begin(async (tx) => { // postgres.js; with pg: client.query(text, values).then(({ rows }) => rows)
   *   await tx`insert into orders (id) values (${id})`;
   *   const { outbox } = store.within({ query: (text, values) => tx.unsafe(text, values) });
   *   await outbox.add([message]);
   * });
   * ```
   *
   * @param session Runs one statement in that transaction. Values are text or null, ready for the server.
   */
  within(session: CallersSession): StorePorts;
  /**
   * How far the order of all events has come, and which transaction holds it up. An alarm on `ageMs` finds clients that
   * keep transactions open, before projections fall behind.
   */
  watermark(): Promise<WatermarkStatus>;
}

/** A transaction of the caller, for {@linkcode PostgresStore.within}. */
export interface CallersSession {
  query(text: string, values: (string | null)[]): PromiseLike<readonly unknown[]>;
}

const DAY_MS = 86_400_000;

/** Binds the ports to a driver, which the store closes when it is closed. */
export function postgresStore(driver: SqlDriver, options: StoreOptions): PostgresStore {
  const { schema = "millstream", clock = systemClock, pollMs = 250 } = options;
  const { retentionMs = 7 * DAY_MS, outboxRetentionMs = DAY_MS } = options;
  const { inboxRetentionMs = 30 * DAY_MS, sagaRetentionMs = 30 * DAY_MS } = options;
  const quoted = quoteSchema(schema);
  checkRange("pollMs", pollMs, 1, 60_000);
  checkRange("retentionMs", retentionMs, 0, 3_660 * DAY_MS);
  checkRange("outboxRetentionMs", outboxRetentionMs, 0, 3_660 * DAY_MS);
  checkRange("inboxRetentionMs", inboxRetentionMs, 0, 3_660 * DAY_MS);
  checkRange("sagaRetentionMs", sagaRetentionMs, 0, 3_660 * DAY_MS);

  const intervals = { minMs: Math.min(10, pollMs), maxMs: pollMs };
  const housekeeping = maintenance(driver, quoted, clock, {
    messagesMs: retentionMs,
    outboxMs: outboxRetentionMs,
    inboxMs: inboxRetentionMs,
    sagasMs: sagaRetentionMs,
  });
  const context: StoreContext = {
    schema: quoted,
    clock,
    intervals,
    watermark: watermark(),
    continuity: continuity(quoted),
    appended: createBell(clock),
  };
  const shared = { clock, intervals, watermark: watermark(), bells: createBells(clock) };
  const parts = disposer();
  parts.defer(async () => await driver[Symbol.asyncDispose]());
  parts.defer(housekeeping.stop);
  let closing: Promise<void> | undefined;

  const session: SqlSession = {
    query(text, values) {
      housekeeping.touch();
      return driver.query(text, values);
    },
  };
  // Brokers are closed by the store, and still hand back what they hold: they do without this check.
  const whileOpen: SqlSession = {
    async query(text, values) {
      checkOpen();
      return await session.query(text, values);
    },
  };

  const appends = appendQueue({ session, clock, schema: quoted, onAppend: () => context.appended.ring() });
  parts.defer(appends.drained);
  const queue: AppendQueue = {
    ...appends,
    async append(unit, signal) {
      checkOpen();
      return await appends.append(unit, signal);
    },
  };

  function checkOpen(): void {
    if (closing) throw new MillstreamError("CLOSED", "Cannot use the store: it was closed");
  }

  async function start(): Promise<void> {
    checkOpen();
    await checkIsolation(driver);
    if (options.migrate ?? true) await migrate(driver, schema);
    else await checkMigrated(driver, schema);
    await alignPositions(driver, quoted);
  }

  async function transaction<T>(work: (ports: StorePorts) => Promise<T>): Promise<T> {
    checkOpen();
    let appended = false;
    const onAppend = (): void => void (appended = true);
    const result = await driver.transaction((session) =>
      work(ports(context, { session, inTransaction: true, onAppend }))
    );
    if (appended) context.appended.ring();
    return result;
  }

  function broker(): Broker {
    checkOpen();
    const created = postgresBroker({ ...shared, session, schema: quoted, ping });
    parts.defer(async () => await created[Symbol.asyncDispose]());
    return created;
  }

  async function ping(): Promise<void> {
    checkOpen();
    const late = (): Error => unavailable("no answer within 3 s");
    try {
      await withDeadline(clock, 3_000, driver.query("select 1"), late);
    } catch (cause) {
      throw unavailable("the query failed", cause);
    }
  }

  const outside = ports(
    context,
    { session: whileOpen, inTransaction: false, onAppend: () => context.appended.ring() },
    queue,
  );
  return {
    name: "postgres",
    ...outside,
    start,
    transaction,
    broker,
    ping,
    prune: housekeeping.prune,
    within(session) {
      checkOpen();
      const query = async (text: string, values: readonly SqlValue[] = []): Promise<readonly never[]> =>
        await session.query(text, encodeValues(values)) as never[];
      return ports(context, { session: { query }, inTransaction: true, onAppend: () => {} });
    },
    async watermark() {
      return await watermarkStatus(whileOpen, { schema: quoted, position: await outside.events.head() });
    },
    [Symbol.asyncDispose]: () => closing ??= parts.dispose(),
  };
}

function ports(context: StoreContext, scope: Scope, queue?: AppendQueue): StorePorts {
  const { session } = scope;
  const { schema } = context;
  return {
    events: eventStore(context, scope, queue),
    outbox: outbox(session, schema),
    outboxDeadLetters: outboxDeadLetters(session, schema),
    inbox: inbox(session, schema),
    checkpoints: checkpoints(session, schema),
    leases: leases(session, schema),
    projections: projections(session, schema),
    snapshots: snapshots(session, schema),
    sagas: sagas(session, schema),
    idempotency: idempotencyKeys(session, schema),
    sql: sqlTag(session),
  };
}

/**
 * The functions of the schema take a lock in one statement and rely on the next one to see what was committed
 * meanwhile, which only READ COMMITTED gives them.
 */
async function checkIsolation(session: SqlSession): Promise<void> {
  const [row] = await session.query<{ level: string }>(
    "select current_setting('transaction_isolation') as level",
  );
  if (row?.level === "read committed") return;
  throw new MillstreamError(
    "UNSUPPORTED",
    `Cannot use the database: expected default_transaction_isolation "read committed", got "${row?.level}"`,
  );
}

function unavailable(why: string, cause?: unknown): MillstreamError {
  return new MillstreamError("UNAVAILABLE", `Cannot reach Postgres: ${why}`, { cause });
}
