/**
 * `/sagas`: see where sagas and process managers stand, and operate them. They show data and errors and change what
 * happens, so they are only there where the gateway was given an authorizer.
 *
 * @module
 */
import type { Context } from "hono";
import { checkText } from "../core/names.ts";
import type { SagaFilter, SagaStatus } from "../ports/saga_store.ts";
import type { SagaView } from "../sagas/operations.ts";
import type { Gate } from "./options.ts";
import { invalid, parameter, searchParams, wholeNumber } from "./request.ts";
import { jsonResponse, type Route } from "./route.ts";

const STATUSES: readonly string[] = [
  "running",
  "waiting",
  "compensating",
  "completed",
  "compensated",
  "compensation_failed",
  "needs_migration",
] satisfies SagaStatus[];

const MAX_PAGE = 500;

/** The routes of sagas. */
export function sagaRoutes(gate: Gate): Route[] {
  const { sagas } = gate.app;
  const operation = (
    name: string,
    run: (id: string, params: URLSearchParams) => Promise<SagaView>,
  ): Route => ({
    method: "POST",
    path: `/sagas/:id/${name}`,
    action: "sagas.operate",
    handle: async (c) => one(await run(sagaId(c), searchParams(c))),
  });
  return [
    { method: "GET", path: "/sagas", action: "sagas.read", handle: (c) => list(c, gate) },
    {
      method: "GET",
      path: "/sagas/:id",
      action: "sagas.read",
      handle: async (c) => one(await sagas.get(sagaId(c))),
    },
    operation("retry", (id) => sagas.retry(id)),
    operation("skip", (id, params) => sagas.skip(id, text(params, "step"))),
    operation("force-complete", (id, params) => sagas.forceComplete(id, text(params, "reason"))),
    operation("cancel", (id, params) => sagas.cancel(id, text(params, "reason"))),
  ];
}

/** `next`, where there is one, is the `after` of the next page. */
async function list(c: Context, gate: Gate): Promise<Response> {
  const params = searchParams(c);
  const limit = wholeNumber(params, "limit", 1, MAX_PAGE) ?? 100;
  const minAgeMs = wholeNumber(params, "minagems", 0, 8_640_000_000_000);
  const filter: Partial<SagaFilter> & { stuck?: boolean } = {
    limit,
    ...optional("saga", text(params, "saga")),
    ...optional("after", text(params, "after")),
    ...optional("status", readStatus(params)),
    ...optional("startedBefore", minAgeMs === undefined ? undefined : gate.clock.now() - minAgeMs),
    stuck: readFlag(params, "stuck"),
  };
  const found = await gate.app.sagas.list(filter);
  const next = found.length === limit ? found.at(-1)?.id : undefined;
  return jsonResponse(JSON.stringify({ ...optional("next", next), sagas: found }), 200);
}

function one(view: SagaView): Response {
  return jsonResponse(JSON.stringify(view), 200);
}

function sagaId(c: Context): string {
  return checkText("saga id", c.req.param("id") ?? "");
}

function readStatus(params: URLSearchParams): SagaStatus | undefined {
  const status = parameter(params, "status");
  if (status === undefined || STATUSES.includes(status)) return status as SagaStatus | undefined;
  throw invalid("status", status, `one of ${STATUSES.join(", ")}`);
}

function readFlag(params: URLSearchParams, name: string): boolean {
  const value = parameter(params, name) ?? "false";
  if (value === "true" || value === "false") return value === "true";
  throw invalid(name, value, "true or false");
}

function text(params: URLSearchParams, name: string): string | undefined {
  const value = parameter(params, name);
  return value === undefined ? undefined : checkText(`parameter "${name}"`, value);
}

function optional<Name extends string, Value>(name: Name, value: Value | undefined): { [N in Name]?: Value } {
  return (value === undefined ? {} : { [name]: value }) as { [N in Name]?: Value };
}
