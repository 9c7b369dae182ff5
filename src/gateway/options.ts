/**
 * What can be set on a gateway, and what its routes share.
 *
 * @module
 */
import type { Millstream } from "../app/application.ts";
import { checkRange } from "../core/backoff.ts";
import { type Clock, systemClock } from "../core/clock.ts";
import { MAX_BYTES, type MessageLimits } from "../core/codec.ts";
import { type IdGenerator, uuidv7Generator } from "../core/ids.ts";
import { MAX_DEPTH } from "../core/json.ts";

/** What a request wants to do. */
export type Action =
  | "topics.publish"
  | "topics.subscribe"
  | "commands.send"
  | "queries.ask"
  | "streams.read"
  | "streams.append"
  | "events.read"
  | "sagas.read"
  | "sagas.operate"
  | "dead-letters.read"
  | "dead-letters.operate"
  | "groups.read"
  | "health.details";

/** What a request wants to do to what. */
export interface Access {
  readonly action: Action;
  /** The topic, type, stream or id as it stands in the path, not checked yet; empty where the path names nothing. */
  readonly target: string;
}

/** Options of `gateway`. */
export interface GatewayOptions {
  /** Bounds of one message. @default 256 KiB, 64 levels */
  readonly limits?: MessageLimits;
  /** Bytes of one request body, batches included. @default 1_048_576 */
  readonly maxBodyBytes?: number;
  /** Events in one batch. @default 100 */
  readonly maxBatch?: number;
  /** Server-sent event streams open at once; one more is answered with 429. @default 200 */
  readonly maxStreams?: number;
  /** A stream that has nothing to say sends a comment after this many milliseconds. @default 15_000 */
  readonly heartbeatMs?: number;
  /** A stream whose client takes nothing for this many milliseconds is closed. @default 30_000 */
  readonly stallMs?: number;
  /** How long a query waits for `X-After`, in milliseconds. @default 5_000 */
  readonly queryWaitMs?: number;
  /**
   * Who is behind a request. Becomes the user id of what it causes, and idempotency keys are kept apart by it. With
   * this option a `userid` that the client wrote into an event itself is replaced.
   */
  readonly principal?: (request: Request) => string | undefined;
  /**
   * Whether a request may do what it wants to do; if not, it is answered with 403. May throw an `HTTPException`, for
   * example 401. Not asked for health, except whether details are shown. @default everything is allowed
   */
  readonly authorize?: (request: Request, access: Access) => boolean | Promise<boolean>;
  /** Path before every route. @default "" */
  readonly basePath?: string;
  /** Closes all streams and takes no new ones: abort it when the process is to end. */
  readonly signal?: AbortSignal;
  /** @default the runtime's clock */
  readonly clock?: Clock;
  /** Told of every error that the client is not told the cause of. What it throws is ignored. */
  readonly onError?: (error: unknown, request: Request) => void;
}

/** What the routes share: the application, and the options with nothing left open. */
export interface Gate {
  readonly app: Millstream;
  readonly clock: Clock;
  readonly limits: Required<MessageLimits>;
  readonly maxBodyBytes: number;
  readonly maxBatch: number;
  readonly maxStreams: number;
  readonly heartbeatMs: number;
  readonly stallMs: number;
  readonly queryWaitMs: number;
  readonly signal: AbortSignal | undefined;
  readonly principal: ((request: Request) => string | undefined) | undefined;
  readonly authorize: NonNullable<GatewayOptions["authorize"]>;
  readonly newId: IdGenerator;
  report(error: unknown, request: Request): void;
}

/** Fills in the defaults and refuses values out of range with `INVALID_ARGUMENT`. */
export function gate(app: Millstream, options: GatewayOptions = {}): Gate {
  const { maxBodyBytes = 1_048_576, maxBatch = 100, maxStreams = 200, clock = systemClock } = options;
  const { heartbeatMs = 15_000, stallMs = 30_000, queryWaitMs = 5_000 } = options;
  const limits = { maxBytes: MAX_BYTES, maxDepth: MAX_DEPTH, ...options.limits };
  checkRange("maxBodyBytes", maxBodyBytes, 1, 2 ** 30, true);
  checkRange("limits.maxBytes", limits.maxBytes, 1, 2 ** 30, true);
  checkRange("limits.maxDepth", limits.maxDepth, 1, 1_000, true);
  checkRange("maxBatch", maxBatch, 1, 10_000, true);
  checkRange("maxStreams", maxStreams, 0, 1_000_000, true);
  checkRange("heartbeatMs", heartbeatMs, 1, 3_600_000);
  checkRange("stallMs", stallMs, 1, 3_600_000);
  checkRange("queryWaitMs", queryWaitMs, 0, 3_600_000);
  return {
    app,
    clock,
    limits,
    maxBodyBytes,
    maxBatch,
    maxStreams,
    heartbeatMs,
    stallMs,
    queryWaitMs,
    signal: options.signal,
    principal: options.principal,
    authorize: options.authorize ?? (() => true),
    newId: uuidv7Generator(clock.now),
    report(error, request) {
      try {
        options.onError?.(error, request);
      } catch {
        // A broken error listener must not turn one failed request into two.
      }
    },
  };
}
