/**
 * How commands and their replies travel over a broker.
 *
 * A command goes to a topic of its own, `command.<type>`. Who waits for its outcome says so in the header `replyto`;
 * the reply is a message on that topic, found by the id of the request. Each request has a message id of its own, so
 * that the broker lets a repeated one pass; what makes it the same command is the header `commandid`.
 *
 * @module
 */
import { event, type EventDefinition } from "../../core/definition.ts";
import { isMillstreamError, type MillstreamError } from "../../core/errors.ts";
import type { Message } from "../../core/message.ts";
import type { Schema } from "../../core/schema.ts";
import type { DispatchResult } from "../../messaging/context.ts";

/** The topic of all replies. */
export const REPLIES = "replies";

/** What became of a request. */
export interface ReplyData {
  /** The message id of the request. */
  readonly request: string;
  readonly outcome?: DispatchResult;
  readonly error?: {
    readonly code: MillstreamError["code"];
    readonly message: string;
    readonly details: MillstreamError["details"];
  };
}

const anything: Schema<unknown, ReplyData> = {
  "~standard": { version: 1, vendor: "millstream", validate: (value) => ({ value: value as ReplyData }) },
};

/** A reply. */
export const Reply: EventDefinition<ReplyData, "millstream.reply"> = event("millstream.reply", anything, {
  topic: REPLIES,
});

/** The command as its sender meant it: under its own id, without the marks of its journey. */
export function commandOf(message: Message): Message {
  const { commandid, replyto: _, ...headers } = message.headers;
  return { ...message, id: commandid ?? message.id, headers };
}

/** What a failure says to the one who asked. Absent for failures that pass: then the command is tried again. */
export function lastingError(failure: unknown): ReplyData["error"] {
  if (!isMillstreamError(failure) || failure.retryable) return undefined;
  const { code, message, details } = failure;
  return { code, message, details: JSON.parse(JSON.stringify(details)) };
}
