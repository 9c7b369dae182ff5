/**
 * `/dead-letters`: messages that were given up, for operators: looking at them, sending them back, removing them. They
 * show data and change what happens, so they are only there where the gateway was given an authorizer.
 *
 * @module
 */
import type { Context } from "hono";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type { PurgeOptions, RedriveOptions } from "../messaging/dead_letters.ts";
import type { DeadLetter, DeadLetterFilter } from "../ports/dead_letters.ts";
import type { Gate } from "./options.ts";
import { invalid, parameter, searchParams, wholeNumber } from "./request.ts";
import { jsonResponse, type Route } from "./route.ts";

const MAX_PAGE = 500;
/** One request redrives or removes no more than this; `next` says where to go on. */
const MAX_SWEEP = 10_000;
const MAX_AGE_MS = 8_640_000_000_000;

/** The routes of dead letters. */
export function deadLetterRoutes(gate: Gate): Route[] {
  const all = gate.app.deadLetters();
  const read = { method: "GET", action: "dead-letters.read" } as const;
  const post = { method: "POST", action: "dead-letters.operate" } as const;
  const remove = { method: "DELETE", action: "dead-letters.operate" } as const;
  return [
    { ...read, path: "/dead-letters", handle: (c) => list(c, gate) },
    { ...remove, path: "/dead-letters", handle: (c) => purge(c, gate) },
    { ...post, path: "/dead-letters/redrive", handle: (c) => redrive(c, gate) },
    { ...post, path: "/dead-letters/:id/redrive", handle: (c) => one(c, (id) => all.redrive(id)) },
    {
      ...read,
      path: "/dead-letters/:id",
      handle: async (c) => json(await all.get(id(c)) ?? missing(c)),
    },
    { ...remove, path: "/dead-letters/:id", handle: (c) => one(c, (id) => all.purge(id)) },
  ];
}

/** Without the bodies, which may be large: the one that is asked for by its id has its own. */
async function list(c: Context, gate: Gate): Promise<Response> {
  const params = searchParams(c);
  const limit = wholeNumber(params, "limit", 1, MAX_PAGE) ?? 100;
  const after = text(params, "after");
  const page = { limit, ...(after === undefined ? {} : { after }) };
  const letters = await gate.app.deadLetters(filter(params)).list(page);
  const deadLetters = letters.map(({ body: _, ...summary }: DeadLetter) => summary);
  const last = letters.length === limit ? letters[limit - 1]!.deadLetterId : undefined;
  return json(last === undefined ? { deadLetters } : { next: last, deadLetters });
}

async function redrive(c: Context, gate: Gate): Promise<Response> {
  const params = searchParams(c);
  const rate = wholeNumber(params, "rate", 1, 1_000_000);
  const options: RedriveOptions = {
    ...sweep(c, params),
    ...(rate === undefined ? {} : { ratePerSecond: rate }),
  };
  return json(await gate.app.deadLetters(filter(params)).redrive(options));
}

async function purge(c: Context, gate: Gate): Promise<Response> {
  const params = searchParams(c);
  const which = filter(params);
  const olderThanMs = wholeNumber(params, "olderthanms", 0, MAX_AGE_MS);
  if (Object.keys(which).length === 0 && olderThanMs === undefined && !flag(params, "all")) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      'Cannot remove dead letters: expected a filter, "olderthanms", or "all=true" for every one',
    );
  }
  const options = { ...sweep(c, params), ...(olderThanMs === undefined ? {} : { olderThanMs }) };
  return json(await gate.app.deadLetters(which).purge(options));
}

/** One by its id. 404 if it is not there (any more). */
async function one(c: Context, act: (id: string) => Promise<{ readonly done: number }>): Promise<Response> {
  const swept = await act(id(c));
  return swept.done === 1 ? json(swept) : missing(c);
}

function sweep(c: Context, params: URLSearchParams): PurgeOptions {
  const max = wholeNumber(params, "max", 1, MAX_SWEEP) ?? 1_000;
  const after = text(params, "after");
  const dryRun = flag(params, "dryrun");
  return { max, dryRun, signal: c.req.raw.signal, ...(after === undefined ? {} : { after }) };
}

function filter(params: URLSearchParams): DeadLetterFilter {
  const found: Record<string, string | number> = {};
  for (const name of ["topic", "group", "type", "error"] as const) {
    const value = text(params, name);
    if (value !== undefined) found[name] = value;
  }
  const before = parameter(params, "before");
  if (before !== undefined) {
    found.before = Date.parse(before);
    if (Number.isNaN(found.before)) throw invalid("before", before, "an RFC 3339 time");
  }
  return found;
}

function flag(params: URLSearchParams, name: string): boolean {
  const value = parameter(params, name);
  if (value === undefined || value === "true" || value === "false") return value === "true";
  throw invalid(name, value, "true or false");
}

function text(params: URLSearchParams, name: string): string | undefined {
  const value = parameter(params, name);
  return value === undefined ? undefined : checkText(`parameter "${name}"`, value, 512);
}

function id(c: Context): string {
  return c.req.param("id") ?? "";
}

function missing(c: Context): never {
  throw new MillstreamError(
    "NOT_FOUND",
    `Cannot find dead letter ${describe(id(c))}: it is not there, or not any more`,
  );
}

function json(value: unknown): Response {
  return jsonResponse(JSON.stringify(value), 200);
}
