/**
 * `/groups`: how every consumer group stands. Names and counts of the whole system, so it is only there where the
 * gateway was given an authorizer.
 *
 * @module
 */
import type { Gate } from "./options.ts";
import { parameter, searchParams } from "./request.ts";
import { jsonResponse, type Route } from "./route.ts";

/** The route of groups. */
export function groupRoutes({ app }: Gate): Route[] {
  return [{
    method: "GET",
    path: "/groups",
    action: "groups.read",
    async handle(c) {
      const topic = parameter(searchParams(c), "topic");
      const groups = await app.groups(topic === undefined ? {} : { topic });
      return jsonResponse(JSON.stringify({ groups }), 200);
    },
  }];
}
