/**
 * Publishing and appending, from here and from outside.
 *
 * @module
 */
import type { AnyEvent } from "../core/definition.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import type { EncodedMessage } from "../core/message.ts";
import type { PublishOptions } from "../ports/broker.ts";
import type { Millstream } from "./application.ts";
import type { Parts } from "./parts.ts";

/** The application's members that send events. */
export type Sending = Pick<Millstream, "publish" | "publishEvents" | "append" | "appendEvents">;

/** Creates them. */
export function sending({ store, broker, factory, registry, limits, observer, committed }: Parts): Sending {
  async function send(
    topic: string,
    messages: readonly EncodedMessage[],
    options: PublishOptions,
  ): Promise<readonly string[]> {
    const ids = messages.map(({ id }) => id);
    try {
      await broker.publish(topic, messages, options);
    } catch (failure) {
      if (!isMillstreamError(failure, "PUBLISH_INDETERMINATE")) throw failure;
      // The caller needs the ids to publish again as the same messages.
      throw new MillstreamError(failure.code, failure.message, {
        cause: failure,
        details: { ...failure.details, ids },
      });
    }
    observer({ kind: "published", topic, count: messages.length });
    return ids;
  }

  return {
    async publish(definition, data, { delayMs, signal, ...options } = {}) {
      const message = await factory.event(definition as AnyEvent, data, options);
      await send(definition.topic, [message], {
        ...(delayMs ? { delayMs } : {}),
        ...(signal ? { signal } : {}),
      });
      return { id: message.id };
    },
    async publishEvents(topic, parsed, options = {}) {
      const { eventsForTopic } = await import("./outside.ts"); // on demand: for gateways
      return { ids: await send(topic, await eventsForTopic(registry, topic, parsed, limits), options) };
    },
    async append(stream, events, expected = "any") {
      const encoded = await Promise.all(
        events.map((event) => factory.toAppend(event, { subject: stream, ...event.options })),
      );
      const [result] = await store.events.append([{ stream, expected, events: encoded }]);
      committed();
      return result!;
    },
    async appendEvents(stream, parsed, expected) {
      const { eventsForStream } = await import("./outside.ts");
      const events = await eventsForStream(registry, stream, parsed, limits);
      const [result] = await store.events.append([{ stream, expected, events }]);
      committed();
      return result!;
    },
  };
}
