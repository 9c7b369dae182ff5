/**
 * One route and what is the same for all of them: who may, what went wrong, which methods there are.
 *
 * @module
 */
import type { Context, Hono } from "hono";
import { stringifyStrict } from "../core/json.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import type { Action, Gate } from "./options.ts";
import { httpError, isHidden, problemResponse, SAFE_HEADERS } from "./problem.ts";
import { checkUrl } from "./request.ts";

/** A method on a path. */
export interface Route {
  readonly method: "GET" | "POST" | "DELETE";
  /** In hono's notation. Its parameter is the target of {@linkcode Action}. */
  readonly path: string;
  /** What to ask `authorize`; absent where everybody may. */
  readonly action?: Action;
  readonly handle: (c: Context) => Response | Promise<Response>;
}

/** Adds the routes to `hono`, and 405 for every other method on their paths. */
export function mount(hono: Hono, routes: readonly Route[], gate: Gate): void {
  for (const route of routes) {
    hono.on(route.method, route.path, (c) => respond(c, gate, () => run(c, gate, route)));
  }
  for (const path of new Set(routes.map((route) => route.path))) {
    const methods = routes.filter((route) => route.path === path).flatMap(({ method }) =>
      method === "GET" ? ["GET", "HEAD"] : [method]
    );
    hono.all(path, (c) => respond(c, gate, () => methodNotAllowed(c, methods)));
  }
}

async function run(c: Context, gate: Gate, { path, action, handle }: Route): Promise<Response> {
  checkUrl(c.req.url);
  if (action) await checkAccess(c, gate, action, target(c, path));
  return await handle(c);
}

/** The path's parameter. */
function target(c: Context, path: string): string {
  const name = /:(\w+)/.exec(path)?.[1];
  return name === undefined ? "" : c.req.param(name) ?? "";
}

async function checkAccess(c: Context, gate: Gate, action: Action, target: string): Promise<void> {
  if (await gate.authorize(c.req.raw, { action, target })) return;
  throw httpError(403, "FORBIDDEN", `This request may not do ${action} here`, { details: { action } });
}

/** The response of `work`, or the problem that stopped it. What clients are not told the cause of is reported. */
export async function respond(
  c: Context,
  gate: Gate,
  work: () => Response | Promise<Response>,
): Promise<Response> {
  try {
    return await work();
  } catch (error) {
    // Aborted means that the client left: nothing is wrong then.
    if (isHidden(error) && !isMillstreamError(error, "ABORTED")) gate.report(error, c.req.raw);
    return problemResponse(error);
  }
}

function methodNotAllowed(c: Context, methods: readonly string[]): never {
  const allow = methods.join(", ");
  throw httpError(405, "METHOD_NOT_ALLOWED", `Cannot ${c.req.method} here: expected ${allow}`, {
    headers: { allow },
  });
}

/** A JSON response from text. */
export function jsonResponse(text: string, status: number, headers: Record<string, string> = {}): Response {
  return new Response(text, {
    status,
    headers: { "content-type": "application/json", ...SAFE_HEADERS, ...headers },
  });
}

/** What the application answered as JSON text. That it cannot be is the application's fault, not the client's. */
export function resultText(result: unknown): string {
  try {
    return stringifyStrict(result ?? null);
  } catch (cause) {
    throw new MillstreamError("INTERNAL", "Cannot send the handler's result: it is not JSON", { cause });
  }
}
