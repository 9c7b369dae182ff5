/**
 * What every part of an application works with.
 *
 * @module
 */
import type { RetryPolicy } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import type { MessageLimits } from "../core/codec.ts";
import type { Random } from "../core/ids.ts";
import type { Observer } from "../core/observer.ts";
import type { CommandBus } from "../cqrs/command_bus.ts";
import type { QueryBus } from "../cqrs/query_bus.ts";
import type { DeadLetterAlertOptions } from "../messaging/dead_letter_alert_options.ts";
import type { MessageFactory } from "../messaging/factory.ts";
import type { Broker } from "../ports/broker.ts";
import type { Store } from "../ports/store.ts";
import type { Registry } from "./registry.ts";

/** Made once, when the application is created. */
export interface Parts {
  readonly store: Store;
  readonly broker: Broker;
  readonly clock: Clock;
  readonly random: Random;
  readonly observer: Observer;
  readonly factory: MessageFactory;
  readonly limits: MessageLimits;
  /** Retry policy of consumers that have none of their own. */
  readonly retry: RetryPolicy | undefined;
  /** When to say something about dead letters. */
  readonly deadLetterAlerts: DeadLetterAlertOptions | undefined;
  /** This process, in leases. */
  readonly owner: string;
  readonly registry: Registry;
  readonly commands: CommandBus;
  readonly queries: QueryBus;
  /** Says that something may lie in the outbox. */
  readonly committed: () => void;
}
