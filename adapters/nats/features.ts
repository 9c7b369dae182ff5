/**
 * What JetStream does, and what it cannot.
 *
 * @module
 */
import type { BrokerFeatures } from "../../src/ports/broker.ts";

/** The feature record of the adapter. */
export const FEATURES: BrokerFeatures = Object.freeze({
  name: "nats",
  persistent: true,
  replay: true,
  keyOrder: false,
  delay: true,
  deduplicates: true,
  fencedAck: true,
  replaySince: true,
  countsStarts: false,
  listsGroups: true,
  reschedules: false,
  reasons: {
    keyOrder:
      "a consumer hands its messages to whoever asks; one process keeps the order of a key, several do not",
    countsStarts: "the server counts what it handed out, not what was begun",
    reschedules: "a message in a stream cannot be changed",
  },
  emulated: {
    delay: "a message that comes before its time is handed back until then",
    fencedAck:
      "the server takes late acknowledgements; the lease runs in the consuming process, which refuses them",
  },
});
