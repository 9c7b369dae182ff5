/**
 * What the adapter uses of a NATS connection, and how one is made. Any connection of nats.js has this shape, whatever
 * its transport.
 *
 * @module
 */
import { MillstreamError } from "../../src/core/errors.ts";

/** What the adapter uses of `NatsConnection` of `@nats-io/nats-core`. */
export interface NatsConnection {
  readonly info?: { readonly version: string; readonly max_payload: number };
  publish(subject: string, body?: Uint8Array | string, options?: NatsPublish): void;
  request(subject: string, body?: Uint8Array | string, options?: NatsRequest): Promise<NatsMessage>;
  subscribe(subject: string, options: NatsSubscribe): NatsSubscription;
  flush(): Promise<void>;
  isClosed(): boolean;
  close(): Promise<void>;
}

/** Options of a publish. */
export interface NatsPublish {
  readonly reply?: string;
  // deno-lint-ignore no-explicit-any -- nats.js asks for its own class of headers, of which it uses `encode` alone
  readonly headers?: any;
}

/** Options of a request. */
export interface NatsRequest extends NatsPublish {
  /** In milliseconds. */
  readonly timeout: number;
}

/** Options of a subscription. */
export interface NatsSubscribe {
  // deno-lint-ignore no-explicit-any -- the error is one of nats.js, the message has more than is read here
  readonly callback: (error: Error | null, message: any) => void;
}

/** A subscription. */
export interface NatsSubscription {
  unsubscribe(): void;
  drain(): Promise<void>;
}

/** A message that came. */
export interface NatsMessage {
  readonly subject: string;
  readonly reply?: string;
  readonly data: Uint8Array;
  readonly headers?: NatsHeaders;
}

/** Headers that came. */
export interface NatsHeaders {
  readonly code: number;
  readonly description: string;
  keys(): string[];
  get(name: string): string;
}

const BYTES = new TextEncoder();

/** Headers as `nats.js` wants them: it asks for their bytes. */
export function writeHeaders(headers: Readonly<Record<string, string>>): { encode(): Uint8Array } {
  let text = "NATS/1.0\r\n";
  for (const name in headers) text += `${name}: ${headers[name]}\r\n`;
  return { encode: () => BYTES.encode(`${text}\r\n`) };
}

/** Connects over TCP through `@nats-io/transport-node`, which the application brings along; runs on Bun and Deno, too. */
export async function connectNats(url: string, timeoutMs: number): Promise<NatsConnection> {
  const { connect } = await import("@nats-io/transport-node").catch((cause) => {
    const expected = "expected the package @nats-io/transport-node to be installed";
    throw new MillstreamError("UNSUPPORTED", `Cannot use NATS: ${expected}`, { cause });
  });
  const { username, password, href } = new URL(url);
  const account = username === ""
    ? {}
    : { user: decodeURIComponent(username), pass: decodeURIComponent(password) };
  const servers = href.replace(/\/\/[^@/]*@/, "//");
  return await connect({
    servers,
    ...account,
    timeout: timeoutMs,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 250,
    pingInterval: 5_000,
    maxPingOut: 2,
  }) as unknown as NatsConnection;
}
