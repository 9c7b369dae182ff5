/**
 * Publishes what is scheduled: each time once, whichever process is there. The note that a time is over and the message in
 * the outbox commit together, and only one process can move the note on.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { isMillstreamError } from "../core/errors.ts";
import { uuidv5 } from "../core/ids.ts";
import type { Observer } from "../core/observer.ts";
import type { Store } from "../ports/store.ts";
import type { MessageFactory } from "./factory.ts";
import { type Loop, startLoop } from "./loop.ts";
import type { Schedule } from "./schedule_options.ts";

/** What schedules work with. */
export interface ScheduleParts {
  readonly store: Store;
  readonly factory: MessageFactory;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly committed: () => void;
}

/** How long a process rests at most: a wall clock may be set. */
const MAX_REST_MS = 60_000;

/**
 * Runs the schedules until stopped. Times that passed while no process was there are made up for by the latest of them;
 * those before a schedule was first seen are not. The clock is that of the process.
 */
export function startSchedules(parts: ScheduleParts, schedules: ReadonlyMap<string, Schedule>): Loop {
  const { clock, observer } = parts;
  return startLoop({ name: "schedules", clock, observer, periodMs: MAX_REST_MS }, async () => {
    let nextAt = Infinity;
    for (const schedule of schedules.values()) nextAt = Math.min(nextAt, await run(parts, schedule));
    return Math.max(1, Math.min(nextAt - clock.now(), MAX_REST_MS));
  });
}

/** Publishes what is due of one schedule. Returns when to look again. */
async function run(parts: ScheduleParts, { name, definition, data, due: dueBy }: Schedule): Promise<number> {
  const { store, factory, clock, committed } = parts;
  const checkpoint = `schedule ${name}`;
  const now = clock.now();
  const last = await store.checkpoints.load(checkpoint);
  const isNew = last === 0n;
  const { due, nextAt } = dueBy(isNew ? undefined : Number(last), now);
  if (due === undefined && !isNew) return nextAt;
  const message = due === undefined ? undefined : {
    ...await factory.event(definition, data(new Date(due)), {
      id: await uuidv5(`schedule/${name}/${due}`),
      time: due,
    }),
    topic: definition.topic,
  };
  try {
    await store.transaction(async (ports) => {
      await ports.checkpoints.advance(checkpoint, last, BigInt(due ?? Math.floor(now)));
      if (message) await ports.outbox.add([message]);
    });
  } catch (failure) {
    if (!isMillstreamError(failure, "LEASE_LOST")) throw failure;
    return clock.now(); // another process was faster
  }
  if (message) committed();
  return nextAt;
}
