/**
 * Commands over the broker: sent to whichever process serves them. Loaded with their first use.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { type AnyCommand, commandTopic } from "../core/definition.ts";
import type { IdGenerator } from "../core/ids.ts";
import { notFound } from "../cqrs/command_bus.ts";
import type { Requester } from "../cqrs/remote/send.ts";
import type { Loop } from "../messaging/loop.ts";
import type { Millstream, ServeOptions } from "./application.ts";
import type { Parts } from "./parts.ts";

/** The application's members for commands over the broker. */
export interface Remote extends Pick<Millstream, "send" | "request"> {
  serve(definition: AnyCommand, options: ServeOptions): void;
}

/** Creates them. `own` takes what has to be stopped when the application closes. */
export function remote(parts: Parts, newId: IdGenerator, own: (loop: Loop) => void): Remote {
  const { broker, clock, observer, factory, limits, commands, registry } = parts;
  const sendParts = { broker, clock, observer, limits, newId, own };
  let requests: Promise<Requester> | undefined;

  return {
    async send(definition, data, { delayMs, signal, ...options } = {}) {
      const { sendCommand } = await import("../cqrs/remote/send.ts");
      const command = await factory.command(definition, data, options);
      await sendCommand(sendParts, command, {
        ...(delayMs ? { delayMs } : {}),
        ...(signal ? { signal } : {}),
      });
      return { id: command.id };
    },
    async request(definition, data, { waitMs = 30_000, signal, ...options } = {}) {
      checkRange("waitMs", waitMs, 1, 86_400_000);
      const { request } =
        await (requests ??= import("../cqrs/remote/send.ts").then(({ requester }) => requester(sendParts)));
      const command = await factory.command(definition, data, options);
      return await request(command, { waitMs, ...(signal ? { signal } : {}) }) as never;
    },
    serve(definition, { group = "handlers", ...options }) {
      if (!commands.definitions.has(definition.type)) throw notFound("command", definition.type);
      const server = import("../cqrs/remote/serve.ts");
      server.catch(() => {}); // seen by the first delivery
      registry.join(commandTopic(definition.type), group, options, async (message, context) => {
        await (await server).commandServer({ commands, broker, factory })(message, context);
      });
    },
  };
}
