/**
 * Says when dead letters pile up or grow old.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { Observer } from "../core/observer.ts";
import type { Broker } from "../ports/broker.ts";
import type { Leases } from "../ports/leases.ts";
import type { DeadLetterAlertOptions } from "./dead_letter_alert_options.ts";
import { type Loop, startLoop } from "./loop.ts";

/** What the watch works with. */
export interface AlertParts {
  readonly broker: Broker;
  readonly store: { readonly leases: Leases };
  readonly clock: Clock;
  readonly observer: Observer;
  readonly owner: string;
}

/**
 * Looks at all groups again and again, in one process of those that share the store, and says once of each group that it
 * is over a bound, and again when it was below in between.
 */
export function watchDeadLetters(parts: AlertParts, options: DeadLetterAlertOptions): Loop {
  const { broker, store, clock, observer, owner } = parts;
  const { depth = 1, ageMs = Infinity, everyMs = 60_000, notify } = options;
  const over = new Set<string>();

  async function look(topic: string, group: string, dead: number): Promise<void> {
    const name = `${topic}/${group}`;
    const [oldest] = dead === 0 ? [] : await broker.deadLetters.list({ topic, group }, { limit: 1 });
    const oldestMs = oldest ? Math.max(0, clock.now() - oldest.failure.at) : 0;
    if (dead < depth && (!oldest || oldestMs < ageMs)) return void over.delete(name);
    if (over.has(name)) return;
    const alert = { topic, group, depth: dead, oldestMs };
    await notify?.(alert);
    over.add(name);
    observer({ kind: "dead-letters", ...alert });
  }

  return startLoop({ name: "dead letter alerts", clock, observer, periodMs: everyMs }, async () => {
    if (!await store.leases.acquire("dead-letter-alerts", owner, everyMs * 3)) return everyMs;
    for (const { topic, group, dead } of await broker.groups()) await look(topic, group, dead);
    return everyMs;
  });
}
