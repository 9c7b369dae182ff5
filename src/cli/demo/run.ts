/**
 * `millstream demo`: the order flow and the webhooks, on whatever the environment offers.
 *
 * @module
 */
import type { Observation } from "../../../mod.ts";
import { backends } from "../backends.ts";
import { serve } from "../serve.ts";
import { demo, startDemo } from "./app.ts";
import { feedGitHub } from "./github_feed.ts";
import { demoRoutes } from "./routes.ts";

/** Options of the demo. */
export interface DemoOptions {
  readonly port: number;
  readonly hostname: string;
  /** Whether to send the webhooks. */
  readonly feed: boolean;
}

/** Serves the demo until it is told to stop. */
export async function runDemo({ port, hostname, feed }: DemoOptions): Promise<void> {
  console.error("Starting; the first time on an empty folder takes a few seconds"); // PGlite makes a database
  const { store, broker, description, close } = await backends();
  const running = demo({ store, broker }, tell);
  await startDemo(running);
  const ending = new AbortController();
  const routes = demoRoutes(running.app, ending.signal);
  const address = await serve({
    app: running.app,
    fetch: (request) => routes.fetch(request),
    port,
    hostname,
    ending,
    close,
  });
  console.log(`Millstream demo on ${address}, with ${description}\n`);
  console.log(instructions(address));
  if (!feed) return;
  try {
    await showFeed(running, address);
  } catch (error) {
    if (ending.signal.aborted) return; // told to end in the middle of it
    console.error(`GitHub webhooks: ${error instanceof Error ? error.message : error}`);
  }
}

function instructions(address: string): string {
  return `Try:
  curl -s ${address}/orders -H 'content-type: application/json' -d '{"orderId":"o-1","customerId":"c-1","items":[{"productId":"p-1","quantity":2,"price":19.5}]}'
  curl -s ${address}/orders/o-1
  curl -sN '${address}/topics/order/events?from=start'
`;
}

async function showFeed(running: Parameters<typeof feedGitHub>[0], address: string): Promise<void> {
  const report = await feedGitHub(running, address);
  if (!report) return console.log("GitHub webhooks: not sent, @octokit/webhooks-examples is not installed");
  const { sent, handled, deadLettered, different, perSecond } = report;
  console.log(
    `GitHub webhooks: ${sent} sent, ${handled} handled, ${deadLettered} dead-lettered, ${
      different === undefined
        ? "bytes not compared: the broker keeps no log"
        : `${different} with other bytes`
    }, ${perSecond}/s` +
      `\n  curl -s ${address}/queries/GitHubActivity`,
  );
}

/** Says on standard error what an operator should know. */
function tell(observation: Observation): void {
  if (observation.kind === "saga" && (observation.error || observation.step === undefined)) {
    const why = observation.error ? `: ${observation.error.message}` : "";
    console.error(`saga ${observation.id} ${observation.step ?? ""} ${observation.status}${why}`);
  }
  if (observation.kind === "dead-lettered") {
    console.error(`dead letter in ${observation.group}: ${observation.id}: ${observation.error.message}`);
  }
  if (observation.kind === "loop-failed") {
    console.error(`${observation.loop} failed: ${observation.error.message}`);
  }
}
