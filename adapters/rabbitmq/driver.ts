/**
 * What the adapter uses of npm `amqplib`, and how it is loaded. Connections of the caller's own have the same shape.
 *
 * @module
 */
import { MillstreamError } from "../../src/core/errors.ts";

/** What the adapter uses of `ChannelModel` of `amqplib`. */
export interface AmqpConnection {
  createChannel(): Promise<AmqpChannel>;
  createConfirmChannel(): Promise<AmqpChannel>;
  close(): Promise<void>;
  on(event: string, listener: (detail: never) => void): unknown;
}

/** What the adapter uses of `Channel` and `ConfirmChannel` of `amqplib`. */
export interface AmqpChannel {
  assertExchange(name: string, type: string, options?: AmqpDeclaration): Promise<unknown>;
  checkExchange(name: string): Promise<unknown>;
  bindExchange(to: string, from: string, pattern: string): Promise<unknown>;
  assertQueue(name: string, options?: AmqpDeclaration): Promise<AmqpQueue>;
  checkQueue(name: string): Promise<AmqpQueue>;
  deleteQueue(name: string): Promise<unknown>;
  bindQueue(queue: string, from: string, pattern: string): Promise<unknown>;
  prefetch(count: number): Promise<unknown>;
  consume(queue: string, onMessage: (message: AmqpMessage | null) => void): Promise<{ consumerTag: string }>;
  cancel(consumerTag: string): Promise<unknown>;
  // deno-lint-ignore no-explicit-any -- amqplib asks for the runtime's Buffer, which has no name here
  publish(exchange: string, key: string, body: any, options: AmqpPublish, done?: AmqpConfirm): boolean;
  // deno-lint-ignore no-explicit-any -- amqplib declares more fields of a message than it reads
  ack(message: any, allUpTo?: boolean): void;
  // deno-lint-ignore no-explicit-any -- see above
  nack(message: any, allUpTo?: boolean, requeue?: boolean): void;
  close(): Promise<void>;
  on(event: string, listener: (detail: never) => void): unknown;
}

/** Called when the server has answered for a message: with an error if it refused it or the channel was lost. */
export type AmqpConfirm = (error: Error | null | undefined, reply?: unknown) => void;

/** Options of exchanges and queues. */
export interface AmqpDeclaration {
  readonly durable?: boolean;
  readonly exclusive?: boolean;
  readonly autoDelete?: boolean;
  readonly arguments?: Readonly<Record<string, unknown>>;
}

/** What is known of a queue. */
export interface AmqpQueue {
  readonly messageCount: number;
}

/** A message that was delivered, got or returned. */
export interface AmqpMessage {
  /** A Buffer of the runtime's. */
  readonly content: Uint8Array;
  readonly fields: { readonly deliveryTag?: number; readonly redelivered?: boolean };
  readonly properties: AmqpProperties;
}

/** Properties of a message. */
export interface AmqpProperties {
  readonly contentType?: string | undefined;
  readonly messageId?: string | undefined;
  readonly headers?: Readonly<Record<string, unknown>> | undefined;
  readonly [name: string]: unknown;
}

/** How a message is published. */
export interface AmqpPublish extends AmqpProperties {
  readonly persistent?: boolean;
  readonly mandatory?: boolean;
}

/** The driver, loaded. */
export interface Driver {
  connect(url: string, timeoutMs: number): Promise<AmqpConnection>;
  /** Text as the kind of bytes that `amqplib` takes. */
  bytes(text: string): Uint8Array;
}

/** Loads `amqplib`, which the application brings along. */
export async function loadDriver(): Promise<Driver> {
  const loaded = await import("amqplib").catch((cause) => {
    throw new MillstreamError(
      "UNSUPPORTED",
      "Cannot use RabbitMQ: expected the package amqplib to be installed",
      {
        cause,
      },
    );
  });
  const amqplib = (loaded as unknown as { default?: typeof loaded }).default ?? loaded;
  // It takes nothing but the runtime's Buffer; its own credentials are one, so that no global is needed.
  const buffers = (amqplib.credentials.plain("", "").response() as unknown as Uint8Array)
    .constructor as unknown as { from(text: string): Uint8Array };
  return {
    async connect(url, timeoutMs) {
      const options = { noDelay: true, keepAlive: true, timeout: timeoutMs };
      return await amqplib.connect(url, options) as unknown as AmqpConnection;
    },
    bytes: (text) => buffers.from(text),
  };
}
