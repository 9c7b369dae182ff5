/**
 * Messages that the broker refused, in memory.
 *
 * @module
 */
import type { DeadLetter, DeadLetters } from "../ports/dead_letters.ts";
import { matches } from "./dead_letters.ts";
import type { OutboxRow, OutboxRows } from "./outbox.ts";
import type { Session } from "./session.ts";

/** The dead letters of the outbox, on a session. */
export function memoryOutboxDeadLetters(session: Session, rows: OutboxRows): DeadLetters {
  function* all(): Iterable<DeadLetter> {
    for (const row of rows.unsent()) if (row.dead) yield letterOf(row);
  }

  function dead(deadLetterId: string): OutboxRow | undefined {
    const row = /^\d{1,18}$/.test(deadLetterId) ? rows.get(BigInt(deadLetterId)) : undefined;
    return row?.dead ? row : undefined;
  }

  return {
    list: (filter, { limit, after = "0" }) =>
      session.run(() =>
        [...all()].filter((letter) => matches(letter, filter) && BigInt(letter.deadLetterId) > BigInt(after))
          .slice(0, limit)
      ),
    count: (filter) => session.run(() => [...all()].filter((letter) => matches(letter, filter)).length),
    get: (id) =>
      session.run(() => {
        const row = dead(id);
        return row && letterOf(row);
      }),
    redrive: (id) =>
      session.run(() => {
        const row = dead(id);
        if (row) {
          rows.set(session, { ...row, dead: false, attempts: 0, retryAt: 0, redrives: row.redrives + 1 });
        }
        return row !== undefined;
      }),
    remove: (id) =>
      session.run(() => {
        const row = dead(id);
        if (row) rows.delete(session, row.position);
        return row !== undefined;
      }),
  };
}

function letterOf({ message, position, attempts, redrives, firstFailedAt, failure }: OutboxRow): DeadLetter {
  const unknown = { error: "", message: "", at: 0 };
  return Object.freeze({
    ...message,
    deadLetterId: String(position),
    group: "outbox",
    attempts,
    redrives,
    firstFailedAt: firstFailedAt ?? 0,
    failure: failure ?? unknown,
  });
}
