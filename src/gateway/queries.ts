/**
 * `/queries/{type}`: asking a query, on request not before the read model has seen what the client wrote.
 *
 * @module
 */
import type { Context } from "hono";
import type { AnyQuery } from "../core/definition.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { parseToken } from "../core/token.ts";
import { readJson } from "./body.ts";
import { blaming } from "./fault.ts";
import type { Gate } from "./options.ts";
import { invalid, searchParams } from "./request.ts";
import { jsonResponse, resultText, type Route } from "./route.ts";

/** The routes of queries. */
export function queryRoutes(gate: Gate): Route[] {
  return [
    {
      method: "GET",
      path: "/queries/:type",
      action: "queries.ask",
      handle: (c) => ask(c, gate, () => fromQueryString(c)),
    },
    {
      method: "POST",
      path: "/queries/:type",
      action: "queries.ask",
      handle: (c) => ask(c, gate, () => fromBody(c, gate)),
    },
  ];
}

/** The answer as it is. `X-After` takes the `X-Position` of an earlier response; 503 if it is not reached in time. */
async function ask(c: Context, gate: Gate, readParams: () => unknown): Promise<Response> {
  const query = knownQuery(c, gate);
  const after = c.req.header("x-after");
  if (after !== undefined) parseToken(after);
  const waiting = after === undefined ? {} : { after, waitMs: gate.queryWaitMs };
  const params = await readParams();
  const options = { ...waiting, signal: c.req.raw.signal };
  const result = await blaming(query, params, () => gate.app.ask(query, params, options));
  return jsonResponse(resultText(result), 200);
}

/** Every parameter as text; one that is given several times as an array of texts. */
function fromQueryString(c: Context): Record<string, string | string[]> {
  const search = searchParams(c);
  const params: Record<string, string | string[]> = {};
  for (const name of new Set(search.keys())) {
    if (name === "__proto__") throw invalid(name, name, "another name");
    const values = search.getAll(name);
    params[name] = values.length === 1 ? values[0]! : values;
  }
  return params;
}

async function fromBody(c: Context, gate: Gate): Promise<unknown> {
  return (await readJson(c, gate.limits)).value;
}

function knownQuery(c: Context, gate: Gate): AnyQuery {
  const type = c.req.param("type") ?? "";
  const query = gate.app.declared.queries.get(type);
  if (query) return query;
  throw new MillstreamError(
    "HANDLER_NOT_FOUND",
    `Cannot find query ${describe(type)}: nothing here answers it`,
  );
}
