/**
 * Publishing into streams: what resolves, the stream has stored.
 *
 * @module
 */
import { MillstreamError, toError } from "../../src/core/errors.ts";
import { writeHeaders } from "./driver.ts";
import { type ApiError, apiFailure, failure, wasHeardByNobody } from "./failures.ts";
import type { Link } from "./link.ts";
import type { Wire } from "./message.ts";
import type { Streams } from "./streams.ts";

/** How a list of messages is sent. */
export interface SendOptions {
  /** What it is for errors: the topic. */
  readonly name: string;
  /** Makes the stream. */
  readonly declare: () => Promise<void>;
  readonly names: Streams;
}

/** See the module. */
export interface Sender {
  /**
   * Resolves to the places of the messages in their stream.
   *
   * @throws `PUBLISH_INDETERMINATE` if some may have been accepted, anything else if none was.
   */
  send(subject: string, messages: readonly Wire[], options: SendOptions): Promise<readonly number[]>;
  /** Waits for all that is under way. */
  drained(): Promise<void>;
}

/** What the stream answers. */
interface Stored {
  readonly seq?: number;
  readonly error?: ApiError;
}

const UTF8 = new TextDecoder();

/** A sender. Does no I/O before the first message. */
export function sender({ link, timeoutMs }: { readonly link: Link; readonly timeoutMs: number }): Sender {
  const underway = new Set<Promise<unknown>>();

  async function send(
    subject: string,
    messages: readonly Wire[],
    { name, declare, names }: SendOptions,
    again = false,
  ): Promise<readonly number[]> {
    const what = `publish to "${name}"`;
    await declare();
    const connection = await link.connection();
    const limit = connection.info?.max_payload ?? Infinity;
    for (const { body, headers } of messages) checkSize(what, sizeOf(body, headers), limit);
    const outcomes = await Promise.allSettled(messages.map(async ({ headers, body }) => {
      const options = { headers: writeHeaders(headers), timeout: timeoutMs };
      const { data } = await connection.request(subject, body, options);
      const stored = JSON.parse(UTF8.decode(data)) as Stored;
      if (stored.error) throw apiFailure(what, stored.error);
      return stored.seq ?? 0;
    }));
    const failed = outcomes.filter(({ status }) => status === "rejected") as PromiseRejectedResult[];
    const [first] = failed;
    if (!first) return outcomes.map((outcome) => (outcome as PromiseFulfilledResult<number>).value);
    const unheard = failed.every(({ reason }) => wasHeardByNobody(reason));
    if (unheard && failed.length === messages.length) {
      // The stream was deleted, or the server has only just begun.
      names.forget();
      if (!again) return await send(subject, messages, { name, declare, names }, true);
      throw new MillstreamError("UNAVAILABLE", `Cannot ${what}: no stream takes it`, { cause: first.reason });
    }
    const refused = failed.every(({ reason }) => reason instanceof MillstreamError);
    if (refused && failed.length === messages.length) throw failure(what, first.reason);
    throw new MillstreamError(
      "PUBLISH_INDETERMINATE",
      `Cannot tell whether the messages to "${name}" were accepted: ${toError(first.reason).message}. ` +
        "Publish them again with the same ids",
      { cause: first.reason },
    );
  }

  return {
    send(subject, messages, options) {
      const sending = send(subject, messages, options);
      underway.add(sending);
      sending.catch(() => {}).finally(() => underway.delete(sending));
      return sending;
    },
    async drained() {
      await Promise.allSettled(underway);
    },
  };
}

function sizeOf(body: Uint8Array, headers: Readonly<Record<string, string>>): number {
  let size = body.length + 16;
  for (const name in headers) size += name.length + headers[name]!.length + 4;
  return size;
}

function checkSize(what: string, bytes: number, maxBytes: number): void {
  if (bytes <= maxBytes) return;
  throw new MillstreamError(
    "PAYLOAD_TOO_LARGE",
    `Cannot ${what}: ${bytes} bytes, the server's limit is ${maxBytes}`,
    { details: { bytes, maxBytes } },
  );
}
