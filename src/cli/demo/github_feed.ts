/**
 * Real input: every example payload of `@octokit/webhooks-examples`, sent over HTTP as CloudEvents, and checked byte for
 * byte when it comes out again.
 *
 * @module
 */
import { type EncodedMessage, parseEvent, uuidv5 } from "../../../mod.ts";
import { progress } from "../progress.ts";
import { GITHUB_GROUP, repositoryOf } from "./github.ts";
import type { Demo } from "./app.ts";

interface Webhook {
  readonly id: string;
  readonly type: string;
  readonly key: string;
  /** The exact bytes of the payload. */
  readonly payload: string;
}

/** What came of it. */
export interface FeedReport {
  readonly sent: number;
  readonly handled: number;
  readonly deadLettered: number;
  /** Payloads that came out with other bytes than they went in with, or not at all. */
  readonly different: number | undefined;
  /** From the first one sent to the last one handled, per second. */
  readonly perSecond: number;
}

/** Sends all examples to the gateway at `address` and waits until they are handled. */
export async function feedGitHub(
  { app, deadLetters }: Demo,
  address: string,
): Promise<FeedReport | undefined> {
  const webhooks = await loadWebhooks();
  if (!webhooks) return undefined;
  const bar = progress("GitHub webhooks", webhooks.length);
  const started = performance.now();
  const queue = [...webhooks];
  await Promise.all(Array.from({ length: 8 }, async () => {
    for (let webhook = queue.shift(); webhook; webhook = queue.shift()) await post(address, webhook);
  }));
  const ids = webhooks.map(({ id }) => id);
  // The inbox knows what was handled, also before a restart.
  const handled = async (): Promise<number> => (await app.store.inbox.seen(GITHUB_GROUP, ids)).size;
  const dead = (): number => ids.filter((id) => deadLetters.has(id)).length;
  const until = performance.now() + 120_000;
  for (
    let done = 0;
    done < ids.length && performance.now() < until;
    await new Promise((resolve) => setTimeout(resolve, 100))
  ) {
    done = await handled() + dead();
    bar.update(done);
  }
  bar.end();
  const seconds = (performance.now() - started) / 1_000;
  return {
    sent: ids.length,
    handled: await handled(),
    deadLettered: dead(),
    different: await compare(app, webhooks),
    perSecond: Math.round(ids.length / seconds),
  };
}

/** The examples, under ids that are the same at every start; nothing if the package is not installed. */
async function loadWebhooks(): Promise<readonly Webhook[] | undefined> {
  type Examples = readonly { readonly name: string; readonly examples: readonly Record<string, unknown>[] }[];
  let examples: Examples;
  try {
    const name = "@octokit/webhooks-examples/api.github.com/index.json";
    const { createRequire } = await import("node:module");
    examples = createRequire(import.meta.url)(name) as Examples;
  } catch {
    return undefined;
  }
  return await Promise.all(
    examples.flatMap(({ name, examples: payloads }) =>
      payloads.map((payload, index) => ({ name, payload, index }))
    ).map(
      async ({ name, payload, index }) => ({
        id: await uuidv5(`github/${name}/${index}`),
        type: `com.github.${name}`,
        key: repositoryOf(payload),
        payload: JSON.stringify(payload, null, 1), // with its line breaks, as proof that nothing is parsed and written anew
      }),
    ),
  );
}

async function post(address: string, { id, type, key, payload }: Webhook): Promise<void> {
  const response = await fetch(`${address}/topics/github`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "ce-specversion": "1.0",
      "ce-id": id,
      "ce-type": type,
      "ce-source": "https://github.com",
      "ce-partitionkey": encodeURIComponent(key),
    },
    body: payload,
  });
  if (response.status !== 202) {
    throw new Error(`Cannot send webhook ${type}: ${response.status} ${await response.text()}`);
  }
  await response.body?.cancel();
}

/**
 * Reads the topic from its start and counts the payloads that did not come out as they went in; `undefined` where the
 * broker keeps no log to read.
 */
async function compare(app: Demo["app"], webhooks: readonly Webhook[]): Promise<number | undefined> {
  const wanted = new Map(webhooks.map(({ id, payload }) => [id, payload]));
  const log = app.broker.log;
  if (!log) return undefined;
  for (let after = "start";;) {
    const page = await log.read("github", after, { limit: 200, waitMs: 0 });
    for (const entry of page.entries) if (wanted.get(entry.id) === dataOf(entry)) wanted.delete(entry.id);
    if (page.entries.length === 0 || wanted.size === 0) return wanted.size;
    after = page.next;
  }
}

function dataOf({ body }: EncodedMessage): string {
  return parseEvent(body).dataText;
}
