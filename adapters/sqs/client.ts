/**
 * Calls to SQS: the JSON protocol over `fetch`, signed by aws4fetch.
 *
 * @module
 */
import type { AwsClient } from "aws4fetch";
import { type Clock, systemClock } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import { type Address, parseAddress } from "./address.ts";
import { asSqsError, notAnswered, refused } from "./failures.ts";

/**
 * One call to SQS: the name of the action, such as `SendMessageBatch`, and its input as the API reference has it. It
 * rejects with what went wrong. A client of the AWS SDK is made one so:
 * `(action, input) => client.send(new sqs[action + "Command"](input))`.
 */
export type SqsCall = (
  action: string,
  input: Readonly<Record<string, unknown>>,
  options?: { readonly signal?: AbortSignal },
) => Promise<unknown>;

/** Who calls. */
export interface SqsCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** Options of {@linkcode sqsClient}. */
export interface SqsClientOptions {
  /** `https://sqs.<region>.amazonaws.com`, another endpoint that speaks the protocol, or either as `sqs://[key:secret@]host`. */
  readonly url: string;
  /** The caller, or a function that says who it is at the moment, such as a provider of the AWS SDK. @default the URL's user */
  readonly credentials?: SqsCredentials | (() => Promise<SqsCredentials>);
  /** @default the one in the URL's host name */
  readonly region?: string;
}

/**
 * Calls by aws4fetch. It does not repeat anything by itself.
 *
 * @throws `INVALID_ARGUMENT` if `url` is no address, or no region is known.
 */
export function sqsClient(options: SqsClientOptions): SqsCall {
  const address = parseAddress(options.url, options.region);
  const credentials = options.credentials ?? address.user ?? { accessKeyId: "none", secretAccessKey: "none" };

  return async (action, input, { signal } = {}) => {
    const caller = typeof credentials === "function" ? await credentials() : credentials;
    const { AwsClient } = await import("aws4fetch");
    const client = new AwsClient({ ...caller, service: "sqs", region: address.region, retries: 0 });
    const reply = await send(client, address, action, input, signal);
    const text = await reply.text().catch((cause) => {
      throw notAnswered(action, cause);
    });
    if (!reply.ok) throw refused(action, reply.status, text);
    return text === "" ? {} : JSON.parse(text) as unknown;
  };
}

async function send(
  client: AwsClient,
  { endpoint }: Address,
  action: string,
  input: Readonly<Record<string, unknown>>,
  signal: AbortSignal | undefined,
): Promise<Response> {
  try {
    return await client.fetch(endpoint, {
      method: "POST",
      headers: { "content-type": "application/x-amz-json-1.0", "x-amz-target": `AmazonSQS.${action}` },
      body: JSON.stringify(input),
      ...(signal ? { signal } : {}),
    });
  } catch (cause) {
    throw notAnswered(action, cause);
  }
}

/** The same calls, each of which settles within `timeoutMs` beyond what it waits on purpose. */
export function withTimeout(call: SqsCall, timeoutMs: number, clock: Clock = systemClock): SqsCall {
  return (action, input, { signal } = {}) =>
    new Promise((resolve, reject) => {
      const controller = new AbortController();
      const onAbort = (): void => controller.abort(signal?.reason);
      signal?.addEventListener("abort", onAbort, { once: true });
      if (signal?.aborted) onAbort();
      const waits = Number(input.WaitTimeSeconds ?? 0) * 1_000;
      const cancel = clock.after(timeoutMs + waits, () => {
        const late = new MillstreamError(
          "DEADLINE_EXCEEDED",
          `Cannot wait longer for SQS ${action}: ${timeoutMs} ms`,
        );
        reject(notAnswered(action, late));
        controller.abort(late);
      });
      const refuse = (error: unknown): void => reject(asSqsError(action, error));
      call(action, input, { signal: controller.signal }).then(resolve, refuse).finally(() => {
        cancel();
        signal?.removeEventListener("abort", onAbort);
      });
    });
}
