/**
 * Messages whose time has not come, on Postgres. A message that is cancelled is deleted, and its id new again.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { checkName, checkText } from "../../core/names.ts";
import type { Scheduled } from "../../ports/broker.ts";
import type { BrokerContext } from "./context.ts";

/** The delayed messages of all topics. @param maxDelayMs The longest delay. */
export function scheduled({ session, schema, bells }: BrokerContext, maxDelayMs: number): Scheduled {
  async function change(
    sql: string,
    topic: string,
    id: string,
    ...more: readonly number[]
  ): Promise<boolean> {
    checkName("topic", topic);
    checkText("message id", id, 512);
    const [row] = await session.query<{ done: boolean }>(sql, [topic, id, ...more]);
    return row?.done ?? false;
  }

  async function reschedule(topic: string, id: string, delayMs: number): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, maxDelayMs);
    const done = await change(rescheduleSql(schema), topic, id, delayMs);
    if (done) bells.ring(topic); // it may be due now
    return done;
  }

  return { cancel: (topic, id) => change(cancelSql(schema), topic, id), reschedule };
}

/** `$1` topic, `$2` id. */
const cancelSql = (schema: string): string => `select ${schema}.cancel_scheduled($1::text, $2::text) as done`;

/** `$1` topic, `$2` id, `$3` milliseconds to wait from now. */
const rescheduleSql = (schema: string): string =>
  `select ${schema}.reschedule($1::text, $2::text, $3::float8) as done`;
