import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Cli, startDemo, temporaryFolder, toldToEnd } from "./support/cli.ts";
import { request } from "./support/http.ts";

/** Payloads in `@octokit/webhooks-examples`. */
const EXAMPLES = 329;

describe("GitHub's webhooks through the demo on the embedded default", () => {
  test("all come out with the bytes they went in with, and are counted once however often they are sent", async () => {
    const data = temporaryFolder();
    const first = await feed(data);
    assert.match(first.line, EXACTLY_ALL);
    assert.equal(first.total, EXAMPLES);

    const second = await feed(data);
    assert.match(second.line, EXACTLY_ALL);
    assert.deepEqual(second.activity, first.activity);

    await using third = await startDemo({ data }, []);
    const end = await toldToEnd(third); // in the middle of sending
    assert.deepEqual(end, { code: 0, signal: null }, third.process.output());
    assert.doesNotMatch(third.process.output(), /GitHub webhooks/);
  });
});

const EXACTLY_ALL = new RegExp(
  `^GitHub webhooks: ${EXAMPLES} sent, ${EXAMPLES} handled, 0 dead-lettered, 0 with other bytes, \\d+/s$`,
);

interface Fed {
  readonly line: string;
  readonly activity: unknown;
  readonly total: number;
}

/** One start of the demo, with what it says about its feed and what it counted by then. */
async function feed(data: string): Promise<Fed> {
  await using demo: Cli = await startDemo({ data }, []);
  const line = await demo.process.line("GitHub webhooks: ", { withinMs: 60_000 });
  const { body } = await request(`${demo.address}/queries/GitHubActivity`);
  assert.deepEqual(await toldToEnd(demo), { code: 0, signal: null }, demo.process.output());
  const totals = body.map(({ total }: { total: number }) => total);
  return { line, activity: body, total: totals.reduce((sum: number, total: number) => sum + total, 0) };
}
