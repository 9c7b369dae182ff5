/**
 * The events that all contenders move: the same bytes for each of them, under ids that were never used before.
 *
 * @module
 */
import type { EncodedMessage } from "../mod.ts";
import { verify } from "./harness.ts";

/** The type of every event. */
export const TYPE = "order.placed";

/** Numbers from here on have seven digits, so that all bodies have the same size. */
const FIRST = 1_000_000;

/** `count` events in CloudEvents 1.0 JSON, each with a number of its own. */
export function makeEvents(count: number): readonly EncodedMessage[] {
  return Array.from({ length: count }, (_, index) => {
    const id = crypto.randomUUID();
    const data = `{"number":${FIRST + index},"orderId":"order-1"}`;
    const time = "2026-01-01T00:00:00.000Z";
    const body =
      `{"specversion":"1.0","id":"${id}","source":"/bench","type":"${TYPE}","time":"${time}","data":${data}}`;
    return { id, type: TYPE, body };
  });
}

/** Cuts a list into batches. */
export function inBatches<T>(items: readonly T[], size: number): ReadonlyArray<readonly T[]> {
  return Array.from(
    { length: Math.ceil(items.length / size) },
    (_, index) => items.slice(index * size, (index + 1) * size),
  );
}

/** Counts what was handled and acknowledged. */
export interface Tally {
  /** Notes the event with this number. Throws if it was handled before or never published. */
  handle(number: number): void;
  /** Notes acknowledgements that the server confirmed. */
  acked(count: number): void;
  /** Whether everything was acknowledged. */
  readonly done: boolean;
  /** How many there are in all. */
  readonly count: number;
  /** Throws unless everything was handled and acknowledged, once. */
  check(): void;
}

/** A tally for the events of {@linkcode makeEvents}. */
export function tally(count: number): Tally {
  const seen = new Uint8Array(count);
  let handled = 0;
  let acked = 0;
  return {
    count,
    handle(number) {
      verify(`the number of times event ${number} was handled before`, seen[number - FIRST], 0);
      seen[number - FIRST] = 1;
      handled++;
    },
    acked: (more) => void (acked += more),
    get done() {
      return acked >= count;
    },
    check() {
      verify("events handled", handled, count);
      verify("acknowledgements", acked, count);
    },
  };
}
