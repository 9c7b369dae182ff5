/**
 * Messages whose time has not come, on Postgres. A message that is cancelled is deleted, and its id new again.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { checkName, isPlainText } from "../../core/names.ts";
import type { Scheduled } from "../../ports/broker.ts";
import type { BrokerContext } from "./context.ts";
import { MAX_DELAY_MS } from "./publisher.ts";

/** The delayed messages of all topics. */
export function scheduled({ session, schema, bells }: BrokerContext): Scheduled {
  async function change(
    sql: string,
    topic: string,
    id: string,
    ...more: readonly number[]
  ): Promise<boolean> {
    checkName("topic", topic);
    if (!isPlainText(id)) return false; // no message has such an id
    const [row] = await session.query<{ done: boolean }>(sql, [topic, id, ...more]);
    return row?.done ?? false;
  }

  async function reschedule(topic: string, id: string, delayMs: number): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
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
