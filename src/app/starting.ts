/**
 * Starting all that runs by itself. Loaded with the first `start`: an application that only publishes, or sends
 * commands and queries, does without.
 *
 * @module
 */
import type { Message } from "../core/message.ts";
import type { Consumer } from "../messaging/consumer.ts";
import { watchDeadLetters } from "../messaging/dead_letter_alerts.ts";
import type { Loop } from "../messaging/loop.ts";
import { startBroadcast } from "../messaging/broadcasts.ts";
import { startSchedules } from "../messaging/schedules.ts";
import { startRelay } from "../messaging/relay.ts";
import type { Millstream } from "./application.ts";
import { makeGroups, startConsumers } from "./consuming.ts";
import type { Parts } from "./parts.ts";
import type { Saving } from "./sagas.ts";

/** What runs. Filled while starting, so that it can be stopped when starting fails half-way. */
export interface Started {
  relay: Loop | undefined;
  readonly loops: Loop[];
  readonly consumers: Consumer[];
}

/** Prepares the store and the groups, then starts the relay, the projections, the sagas and the consumers. */
export async function startAll(
  started: Started,
  parts: Parts,
  ask: Millstream["ask"],
  sagas: Saving,
): Promise<void> {
  const { store, broker, observer, registry, clock, owner, random, commands } = parts;
  const { loops, consumers } = started;
  await store.start();
  await makeGroups(parts);
  started.relay = startRelay({ store, publisher: broker, clock, observer, random, owner });
  loops.push(started.relay);
  if (registry.projections.size > 0) {
    const { startProjections } = await import("../sourcing/projection_runner.ts");
    loops.push(...await startProjections({ store, clock, observer, owner, random }, registry.projections));
  }
  if (parts.deadLetterAlerts) loops.push(watchDeadLetters(parts, parts.deadLetterAlerts));
  for (const listener of registry.listeners) {
    loops.push(await startBroadcast({ ...parts, log: broker.log! }, listener));
  }
  if (registry.schedules.size > 0) loops.push(startSchedules(parts, registry.schedules));
  const orchestrator = await sagas.run();
  if (orchestrator) loops.push(orchestrator);
  const dispatch = (command: Message): Promise<unknown> => commands.dispatch(command);
  consumers.push(...startConsumers(parts, { dispatch, ask }));
}
