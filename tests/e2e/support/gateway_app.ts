/**
 * A small application for the gateway command: greetings, counted in memory.
 *
 * @module
 */
import * as v from "valibot";
import { command, event, type Millstream, millstream, query } from "../../../mod.ts";

const Greeted = event("greeted", v.object({ name: v.string() }), { topic: "greetings" });
const Greet = command("Greet", v.object({ name: v.pipe(v.string(), v.minLength(1)) }));
const Greetings = query("Greetings", v.object({}));

/** Makes the application; the command calls it. */
export default function app(): Millstream {
  let count = 0;
  return millstream({})
    .declare(Greeted)
    .handle(Greet, async ({ data }, context) => {
      await context.publish(Greeted, { name: data.name });
      count++;
      return `Hello, ${data.name}`;
    })
    .answer(Greetings, () => ({ count }));
}
