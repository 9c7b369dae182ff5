/**
 * What RabbitMQ does, and what it cannot.
 *
 * @module
 */
import type { BrokerFeatures } from "../../src/ports/broker.ts";

/** The feature record of the adapter. */
export const FEATURES: BrokerFeatures = Object.freeze({
  name: "rabbitmq",
  persistent: true,
  replay: false,
  keyOrder: false,
  delay: true,
  deduplicates: false,
  fencedAck: true,
  replaySince: false,
  countsStarts: false,
  listsGroups: true,
  reschedules: false,
  reasons: {
    replay: "a queue gets what is published after it was bound; an exchange keeps nothing",
    keyOrder:
      "a queue hands its messages to its consumers in turn; one process keeps the order of a key, several do not",
    deduplicates: "the server recognises no ids; the inbox does",
    replaySince: "an exchange keeps nothing",
    countsStarts: "the server counts what it handed out, not what was begun",
    reschedules: "a message in a queue can be reached from its head only",
  },
  emulated: {
    delay: "queues with a time to live, one for each length of time; late by a quarter at most",
    fencedAck:
      "the lease runs in the consuming process; a settlement travels on the channel its message came by",
    listsGroups: "groups leave a note in a queue that is looked through",
  },
});
