/**
 * The gateway: an application on HTTP, for everything that speaks it. Web standards only, so the same Hono app runs on
 * Node, Bun, Deno and at the edge, alone or mounted in another one.
 *
 * @module
 */
import { Hono } from "hono";
import type { Millstream } from "../app/application.ts";
import { commandRoutes } from "./commands.ts";
import { deadLetterRoutes } from "./dead_letters.ts";
import { eventRoutes } from "./events.ts";
import { groupRoutes } from "./groups.ts";
import { healthRoutes } from "./health.ts";
import { gate, type GatewayOptions } from "./options.ts";
import { httpError } from "./problem.ts";
import { queryRoutes } from "./queries.ts";
import { mount, respond } from "./route.ts";
import { sagaRoutes } from "./sagas.ts";
import { streamRoutes } from "./streams.ts";
import { topicRoutes } from "./topics.ts";

export type { Access, Action, GatewayOptions } from "./options.ts";
export type { HttpCode, Problem } from "./problem.ts";

/**
 * Puts an application on HTTP.
 *
 * | route | does |
 * |---|---|
 * | `POST /topics/{topic}` | publishes CloudEvents 1.0, structured, binary or batch: 202 `{ ids }` once the broker has them |
 * | `GET /topics/{topic}/events` | server-sent events from `now` (`from=start`: what is kept); `types=`, `key=`; resumes by `Last-Event-ID`; `gap` where messages are no longer kept |
 * | `POST /commands/{type}` | runs a command: `{ id, result, position?, stream?, version? }`, `ETag`, `X-Position`; `Idempotency-Key`, `X-Correlation-Id`, `traceparent`; 202 `{ id }` with `Prefer: respond-async` |
 * | `GET` or `POST /queries/{type}` | the answer; `X-After: <X-Position of a command>` waits for the read model, 503 `NOT_CAUGHT_UP` if that takes too long |
 * | `GET /streams/{id}` | `{ stream, version, next, events }`, `ETag`; `from=`, `limit=`, `direction=backwards` |
 * | `POST /streams/{id}` | appends with `If-Match: "<version>"` or `If-None-Match: *`; 412 with the current version, 428 without a condition |
 * | `GET /events` | `{ next, events }` of all streams; `type=`, `since=`, `correlationid=`, `after=`, `limit=` |
 * | `GET /sagas`, `GET /sagas/{id}` | only with `authorize`: `{ next?, sagas }`, one instance with its timeline; `saga=`, `status=`, `stuck=true`, `minagems=`, `after=`, `limit=` |
 * | `POST /sagas/{id}/{retry,skip,force-complete,cancel}` | only with `authorize`: operates an instance, 409 `REFUSED` where that makes no sense; `step=`, `reason=` |
 * | `GET /dead-letters`, `GET /dead-letters/{id}` | only with `authorize`: `{ next?, deadLetters }`, one with its body; `topic=`, `group=`, `type=`, `error=`, `before=` (RFC 3339), `after=`, `limit=` |
 * | `POST /dead-letters/{id}/redrive`, `POST /dead-letters/redrive` | only with `authorize`: sends one, or up to `max=` (1,000) that match, back to the group that gave them up: `{ done, gone, next? }`; `rate=` per second, `dryrun=true`, `after=` |
 * | `DELETE /dead-letters/{id}`, `DELETE /dead-letters` | only with `authorize`: forgets one, or those that match; `olderthanms=`, `max=`, `dryrun=true`; `all=true` where nothing else says which |
 * | `GET /groups` | only with `authorize`: `{ groups }` with ready, in flight, delayed and dead messages and the age of the oldest; `topic=` |
 * | `GET /health/live`, `/health/ready` | 200 while the process serves; 200 or 503 with details |
 *
 * Errors are RFC 9457 `application/problem+json` with `code` and `retryable`. An idempotency key belongs to the principal and the
 * command; the same key with the same body answers as before with `Idempotency-Replayed: true`, another body 422, while the
 * first call runs 409. `Prefer: respond-async` keeps the command in this process's memory: with an idempotency key, asking
 * again tells what became of it. Requests under way are not stopped when their client leaves; only waiting is.
 *
 * @example
 * ```ts
 * const app = millstream({});
 * export default gateway(app, { principal: (request) => request.headers.get("x-user") ?? undefined });
 * ```
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function gateway(app: Millstream, options: GatewayOptions = {}): Hono {
  const shared = gate(app, options);
  const hono = new Hono().basePath(options.basePath ?? "") as unknown as Hono;
  mount(hono, [
    ...topicRoutes(shared),
    ...commandRoutes(shared),
    ...queryRoutes(shared),
    ...streamRoutes(shared),
    ...eventRoutes(shared),
    ...healthRoutes(shared),
    ...(options.authorize
      ? [...sagaRoutes(shared), ...deadLetterRoutes(shared), ...groupRoutes(shared)]
      : []),
  ], shared);
  // Both only count where the gateway is not mounted: a host has its own.
  hono.notFound((c) =>
    respond(c, shared, () => {
      throw httpError(404, "ROUTE_NOT_FOUND", "Cannot find anything at this address");
    })
  );
  hono.onError((error, c) => respond(c, shared, () => Promise.reject(error)));
  return hono;
}
