/**
 * One consumer of a group on Postgres.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { isMillstreamError } from "../../core/errors.ts";
import type {
  Delivery,
  GroupLag,
  PullOptions,
  StartFrom,
  SubscribeOptions,
  Subscription,
} from "../../ports/broker.ts";
import type { Failure } from "../../ports/dead_letters.ts";
import type { SqlRow, SqlValue } from "../../ports/sql.ts";
import { checkSignal, optional, storable } from "../context.ts";
import { poll } from "../wakeup.ts";
import { type BrokerContext, checkOpen } from "./context.ts";
import { gather } from "./gather.ts";
import { groupLag } from "./groups.ts";

/** Settled deliveries that are remembered, so that settling one again is the same as once. */
const REMEMBERED = 10_000;

/** Options of {@linkcode subscribe}. */
export interface ConsumerOptions extends SubscribeOptions {
  readonly onClosed: () => void;
}

/** Joins a group as a consumer with an id of its own. */
export async function subscribe(
  context: BrokerContext,
  topic: string,
  group: string,
  options: ConsumerOptions,
): Promise<Subscription> {
  const { session, schema, clock, intervals, bells } = context;
  const { from = "start", leaseMs = 30_000, onClosed } = options;
  const bell = bells.get(topic, group);
  const owner = crypto.randomUUID();
  const outstanding = new Map<bigint, Delivery>();
  const settled = new Set<string>();
  const underWay = new Set<Promise<unknown>>();
  let groupId = await join(from);
  let closed = false;
  let closing: Promise<void> | undefined;

  async function join(start: StartFrom): Promise<number> {
    const since = start === "start" ? 0 : start === "now" ? null : start.since;
    const [row] = await session.query<{ id: number }>(subscribeSql(schema), [topic, group, since]);
    return row?.id ?? 0;
  }

  async function pull(max: number, options: PullOptions): Promise<readonly Delivery[]> {
    const { waitMs, signal } = options;
    checkRange("max", max, 1, 10_000, true);
    checkOpen(!closed);
    checkSignal(signal);
    const look = async (): Promise<readonly Delivery[] | undefined> => closed ? [] : await take(max, signal);
    return await poll(look, { clock, intervals, bell, waitMs, signal }) ?? [];
  }

  /** One look. If the first thousands wait for others of their keys, it goes on behind them. */
  async function take(
    max: number,
    signal: AbortSignal | undefined,
  ): Promise<readonly Delivery[] | undefined> {
    let rows = await claim(max);
    while (rows[0]?.pos === null && !closed && !signal?.aborted) rows = await claim(max);
    const deliveries = rows.flatMap((row) => row.pos === null ? [] : [delivery(topic, group, row)]);
    for (const taken of deliveries) outstanding.set(handle(taken.token).pos, taken);
    return deliveries.length > 0 ? deliveries : undefined;
  }

  /** A group that has vanished is created again, from the start. */
  async function claim(max: number): Promise<readonly DeliveryRow[]> {
    try {
      return await session.query<DeliveryRow>(pullSql(schema), [groupId, owner, max, leaseMs]);
    } catch (error) {
      if (!isMillstreamError(error) || error.details.sqlState !== "MS404") throw error;
      groupId = await join("start");
      return [];
    }
  }

  async function ack(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    return await settle(deliveries, ackSql(schema), []);
  }

  async function retry(failed: Delivery, delayMs: number, failure: Failure): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, Number.MAX_SAFE_INTEGER);
    const lost = await settle([failed], retrySql(schema), [Math.min(delayMs, 1e12), failure.at]);
    return lost.length === 0;
  }

  async function deadLetter(failed: Delivery, failure: Failure): Promise<boolean> {
    const lost = await settle([failed], deadLetterSql(schema), [
      failure.at,
      storable(failure.error),
      JSON.stringify(failure),
    ]);
    return lost.length === 0;
  }

  async function release(deliveries: readonly Delivery[]): Promise<void> {
    await settle(deliveries, releaseSql(schema), []);
  }

  const begun = gather(async (deliveries: readonly Delivery[]) => {
    const rows = await session.query<StartedRow>(beginSql(schema), [
      groupId,
      owner,
      ...handlesOf(deliveries),
    ]);
    const started = new Map(rows.map((row) => [row.pos, row.started]));
    return deliveries.map(({ token }) => started.get(String(handle(token).pos)));
  });

  async function begin(delivery: Delivery): Promise<number | undefined> {
    return settled.has(delivery.token) ? undefined : await begun(delivery);
  }

  async function extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    return await change(deliveries, extendSql(schema), [leaseMs]);
  }

  /** Ends deliveries by one statement; returns those that were lost. One that was settled before is left alone. */
  async function settle(
    deliveries: readonly Delivery[],
    sql: string,
    more: readonly SqlValue[],
  ): Promise<Delivery[]> {
    const open = deliveries.filter(({ token }) => !settled.has(token));
    const lost = await change(open, sql, more);
    for (const { token } of open) forget(token);
    for (const done of open) if (!lost.includes(done)) remember(done.token);
    bell.ring(); // a follower of its key, or the delivery itself, may be ready
    return lost;
  }

  /** Runs a statement that returns the positions it applied to; returns the other deliveries. */
  async function change(
    deliveries: readonly Delivery[],
    sql: string,
    more: readonly SqlValue[],
  ): Promise<Delivery[]> {
    if (deliveries.length === 0) return [];
    const values = [groupId, owner, ...handlesOf(deliveries), ...more];
    const rows = await session.query<{ pos: string }>(sql, values);
    const applied = new Set(rows.map(({ pos }) => pos));
    return deliveries.filter(({ token }) => !applied.has(String(handle(token).pos)));
  }

  function forget(token: string): void {
    const { pos } = handle(token);
    if (outstanding.get(pos)?.token === token) outstanding.delete(pos);
  }

  function remember(token: string): void {
    settled.add(token);
    if (settled.size <= REMEMBERED) return;
    const [oldest] = settled;
    if (oldest !== undefined) settled.delete(oldest);
  }

  async function lag(): Promise<GroupLag> {
    checkOpen(!closed);
    return await groupLag(context, groupId);
  }

  function tracked<Args extends unknown[], T>(
    call: (...args: Args) => Promise<T>,
  ): (...args: Args) => Promise<T> {
    return (...args) => {
      const work = call(...args);
      const done = work.then(() => {}, () => {}).finally(() => underWay.delete(done));
      underWay.add(done);
      return work;
    };
  }

  async function dispose(): Promise<void> {
    closed = true;
    bell.ring();
    await Promise.all(underWay);
    // Where this fails, they come back when their leases run out.
    await release([...outstanding.values()]).catch(() => {});
    onClosed();
  }

  return {
    topic,
    group,
    pull: tracked(pull),
    ack: tracked(ack),
    retry: tracked(retry),
    deadLetter: tracked(deadLetter),
    release: tracked(release),
    begin: tracked(begin),
    extend: tracked(extend),
    lag: tracked(lag),
    [Symbol.asyncDispose]: () => closing ??= dispose(),
  };
}

/** `$1` topic, `$2` group, `$3` the moment at which a new group begins, in milliseconds since 1970; null: now. */
const subscribeSql = (schema: string): string =>
  `select ${schema}.subscribe($1::text, $2::text, to_timestamp($3::float8 / 1000)) as id`;

/** `$1` group, `$2` consumer, `$3` at most this many, `$4` milliseconds of lease. */
const pullSql = (schema: string): string =>
  `select * from ${schema}.pull($1::int, $2::text, $3::int, $4::float8)`;

/** `$1` group, `$2` consumer, `$3` positions, `$4` epochs. */
const ackSql = (schema: string): string =>
  `select pos from ${schema}.ack($1::int, $2::text, $3::bigint[], $4::int[]) as pos`;

/** `$1` to `$4` as in {@linkcode ackSql}. */
const beginSql = (schema: string): string =>
  `select pos, started from ${schema}.begin($1::int, $2::text, $3::bigint[], $4::int[])`;

/** `$1` to `$4` as in {@linkcode ackSql} with one element each, `$5` time of the failure, `$6` error, `$7` failure as JSON. */
const deadLetterSql = (schema: string): string =>
  `select d.pos from unnest($3::bigint[], $4::int[]) d(pos, epoch)
where ${schema}.dead_letter($1::int, $2::text, d.pos, d.epoch, $5::float8, $6::text, $7::text)`;

/** `$1` to `$4` as in {@linkcode ackSql}, `$5` milliseconds to wait, `$6` time of the failure. */
const retrySql = (schema: string): string =>
  `select pos from ${schema}.retry($1::int, $2::text, $3::bigint[], $4::int[], $5::float8, $6::float8) as pos`;

/** `$1` to `$4` as in {@linkcode ackSql}. */
const releaseSql = (schema: string): string =>
  `select pos from ${schema}.release($1::int, $2::text, $3::bigint[], $4::int[]) as pos`;

/** `$1` to `$4` as in {@linkcode ackSql}, `$5` milliseconds of lease. */
const extendSql = (schema: string): string =>
  `select pos from ${schema}.extend($1::int, $2::text, $3::bigint[], $4::int[], $5::float8) as pos`;

interface DeliveryRow extends SqlRow {
  readonly pos: string | null;
  readonly id: string;
  readonly type: string;
  readonly key: string | null;
  readonly body: string;
  readonly epoch: number;
  readonly attempt: number;
  readonly redelivered: boolean;
}

interface StartedRow extends SqlRow {
  readonly pos: string;
  readonly started: number;
}

function delivery(topic: string, group: string, row: DeliveryRow): Delivery {
  const { pos, id, type, key, body, epoch, attempt, redelivered } = row;
  return {
    topic,
    group,
    id,
    type,
    ...optional("key", key),
    body,
    attempt,
    redelivered,
    token: `${pos}.${epoch}`,
  };
}

/**
 * Positions and epochs, in order of position: all statements lock rows in this order. Of several deliveries of one
 * message the last one comes last, which is the only one that can still be held.
 */
function handlesOf(deliveries: readonly Delivery[]): [positions: bigint[], epochs: number[]] {
  const handles = deliveries.map(({ token }) => handle(token)).sort((a, b) =>
    a.pos === b.pos ? a.epoch - b.epoch : a.pos < b.pos ? -1 : 1
  );
  return [handles.map(({ pos }) => pos), handles.map(({ epoch }) => epoch)];
}

/** What a token stands for; something no row has if it is not one of ours. */
function handle(token: string): { readonly pos: bigint; readonly epoch: number } {
  const [, pos, epoch] = /^(\d{1,18})\.(\d{1,9})$/.exec(token) ?? [];
  return { pos: BigInt(pos ?? -1), epoch: Number(epoch ?? -1) };
}
