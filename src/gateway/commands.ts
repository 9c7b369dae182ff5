/**
 * `/commands/{type}`: running a command, once per idempotency key.
 *
 * @module
 */
import type { Context } from "hono";
import type { AnyCommand } from "../core/definition.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { uuidv5 } from "../core/ids.ts";
import type { MessageOptions } from "../core/message.ts";
import { validate } from "../core/schema.ts";
import { parseTraceparent } from "../core/trace.ts";
import { runOnce } from "../idempotency/idempotent.ts";
import type { DispatchResult } from "../messaging/context.ts";
import { readJson } from "./body.ts";
import { blaming } from "./fault.ts";
import type { Gate } from "./options.ts";
import { correlationId, printable, userId } from "./request.ts";
import { jsonResponse, resultText, type Route } from "./route.ts";

/** Commands that run although their client has gone on; with more of them, clients wait again. */
const MAX_BACKGROUND = 1_000;

/** The routes of commands. */
export function commandRoutes(gate: Gate): Route[] {
  return [{ method: "POST", path: "/commands/:type", action: "commands.send", handle: commandSender(gate) }];
}

/** What became of a command: the response body, and whether it is the one of an earlier request. */
interface Outcome {
  readonly text: string;
  readonly replayed: boolean;
}

function commandSender(gate: Gate): (c: Context) => Promise<Response> {
  let background = 0;

  return async (c) => {
    const command = knownCommand(c, gate);
    const { text, value } = await readJson(c, gate.limits);
    const call = await identify(c, gate, command, text);
    const async = background < MAX_BACKGROUND && prefersAsync(c);
    if (!async) return outcomeResponse(await run(gate, command, value, call));
    await validate(command.schema, value, `command "${command.type}"`);
    return await runInBackground(c, command, value, call);
  };

  /** 202 as soon as the command runs; its outcome if it has one before: a replay, or a misused key. */
  async function runInBackground(
    c: Context,
    command: AnyCommand,
    data: unknown,
    call: Call,
  ): Promise<Response> {
    const request = c.req.raw;
    background++;
    let started = (): void => {};
    const running = new Promise<undefined>((resolve) => started = () => resolve(undefined));
    const outcome = run(gate, command, data, call, started).finally(() => background--);
    const early = await Promise.race([running, outcome]);
    if (early) return outcomeResponse(early);
    keepAlive(c, outcome.catch((error) => gate.report(error, request)));
    return jsonResponse(JSON.stringify({ id: call.options.id }), 202, {
      "preference-applied": "respond-async",
    });
  }
}

/** Who calls, and what makes a second call the same as the first. */
interface Call {
  readonly options: MessageOptions & { readonly id: string };
  /** Where the outcome is kept. Absent without an idempotency key. */
  readonly once?: { readonly key: string; readonly fingerprint: string };
}

async function identify(c: Context, gate: Gate, command: AnyCommand, body: string): Promise<Call> {
  const correlation = correlationId(c);
  const traceparent = parseTraceparent(c.req.header("traceparent"));
  const user = userId(c, gate);
  const context = {
    ...(correlation === undefined ? {} : { correlationId: correlation }),
    ...(traceparent === undefined ? {} : { traceparent }),
    ...(user === undefined ? {} : { userId: user }),
  };
  const idempotencyKey = readIdempotencyKey(c);
  if (idempotencyKey === undefined) return { options: { ...context, id: gate.newId() } };
  // Hashed, so that keys of any length and spelling fit any store, and nobody's keys meet another user's or command's.
  const key = `gateway:${await sha256(JSON.stringify([command.type, user ?? null, idempotencyKey]))}`;
  const fingerprint = await sha256(body);
  // The same call has the same command id for ever: an aggregate knows it even when the outcome is no longer kept.
  return { options: { ...context, id: await uuidv5(`${key}:${fingerprint}`) }, once: { key, fingerprint } };
}

async function run(
  gate: Gate,
  command: AnyCommand,
  data: unknown,
  call: Call,
  started?: () => void,
): Promise<Outcome> {
  const { app, clock } = gate;
  const dispatch = async (): Promise<string> => {
    started?.();
    return outcomeText(await blaming(command, data, () => app.dispatch(command, data, call.options)));
  };
  if (!call.once) return { text: await dispatch(), replayed: false };
  const { result, replayed } = await runOnce(app.store.idempotency, { ...call.once, clock }, dispatch);
  return { text: result, replayed };
}

function outcomeText({ id, result, position, stream, version }: DispatchResult): string {
  return resultText({ id, result: result ?? null, position, stream, version });
}

function outcomeResponse({ text, replayed }: Outcome): Response {
  const { version, position } = JSON.parse(text) as DispatchResult;
  return jsonResponse(text, 200, {
    ...(version === undefined ? {} : { etag: `"${version}"` }),
    ...(position === undefined ? {} : { "x-position": position }),
    ...(replayed ? { "idempotency-replayed": "true" } : {}),
  });
}

function knownCommand(c: Context, gate: Gate): AnyCommand {
  const type = c.req.param("type") ?? "";
  const command = gate.app.declared.commands.get(type);
  if (command) return command;
  throw new MillstreamError(
    "HANDLER_NOT_FOUND",
    `Cannot find command ${describe(type)}: nothing here handles it`,
  );
}

/**
 * `Idempotency-Key` as in draft-ietf-httpapi-idempotency-key-header-07: a quoted string, or as most clients send it, a bare one.
 */
function readIdempotencyKey(c: Context): string | undefined {
  const value = printable(c, "Idempotency-Key");
  if (!value?.startsWith('"')) return value;
  if (/^"(?:[^"\\]|\\["\\])+"$/.test(value)) return value.slice(1, -1).replaceAll(/\\(.)/g, "$1");
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    'Cannot use header "Idempotency-Key": expected a quoted string',
    { details: { header: "Idempotency-Key" } },
  );
}

function prefersAsync(c: Context): boolean {
  const preferences = (c.req.header("prefer") ?? "").toLowerCase().split(",").map((preference) =>
    preference.trim()
  );
  return preferences.includes("respond-async");
}

/** Tells an edge runtime to wait for `work`; others need no telling. */
function keepAlive(c: Context, work: Promise<unknown>): void {
  try {
    c.executionCtx.waitUntil(work);
  } catch {
    // No execution context: the process lives on by itself.
  }
}

async function sha256(text: string): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
