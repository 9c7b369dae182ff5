/**
 * `/health/live` and `/health/ready`: whether the process serves, and whether it can work.
 *
 * @module
 */
import type { Context } from "hono";
import type { Gate } from "./options.ts";
import { jsonResponse, type Route } from "./route.ts";

/** The routes of health. Probes carry no credentials, so everybody may ask; only details need permission. */
export function healthRoutes(gate: Gate): Route[] {
  return [
    { method: "GET", path: "/health/live", handle: () => jsonResponse('{"live":true}', 200) },
    { method: "GET", path: "/health/ready", handle: (c) => ready(c, gate) },
  ];
}

async function ready(c: Context, gate: Gate): Promise<Response> {
  const health = await gate.app.health();
  const shown = await maySeeDetails(c, gate) ? health : { ready: health.ready };
  return jsonResponse(JSON.stringify(shown), health.ready ? 200 : 503);
}

async function maySeeDetails(c: Context, gate: Gate): Promise<boolean> {
  try {
    return await gate.authorize(c.req.raw, { action: "health.details", target: "" });
  } catch {
    return false;
  }
}
