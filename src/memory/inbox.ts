/**
 * The inbox in memory.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { checkName } from "../core/names.ts";
import type { Inbox } from "../ports/inbox.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** When which message was handled, by group and id. */
export type InboxRows = Table<{ readonly at: number }>;

/** The inbox port on a session. */
export function memoryInbox(session: Session, { rows, clock }: { rows: InboxRows; clock: Clock }): Inbox {
  return {
    async record(group, messageId) {
      const key = keyOf(checkName("group", group), messageId);
      return await session.run(() => {
        if (rows.get(key)) return false;
        rows.set(session, key, { at: clock.now() });
        return true;
      });
    },
    seen: (group, messageIds) =>
      session.run(() => new Set(messageIds.filter((id) => rows.get(keyOf(group, id))))),
    forget: (ageMs) =>
      session.run(() => {
        const limit = clock.now() - ageMs;
        const old = [...rows.rows()].filter(([, { at }]) => at < limit);
        for (const [key] of old) rows.delete(session, key);
        return old.length;
      }),
  };
}

/** A group's name has no space, so two different pairs never share a key. */
function keyOf(group: string, messageId: string): string {
  return `${group} ${messageId}`;
}
