import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Cli, runCli, serving, START_MS, toldToEnd } from "./support/cli.ts";
import { type Answer, request } from "./support/http.ts";
import { assertProblem } from "./support/orders.ts";
import { within } from "../support/wait.ts";

let gateway: Cli;
const at = (path: string): string => `${gateway.address}${path}`;

before(async () => {
  gateway = await serving(runCli(["gateway", module("gateway_app"), "--port=0"]), "Millstream gateway on ");
});
after(() => gateway?.process.kill9());

describe("an application on the gateway command", () => {
  test("takes commands, answers queries, takes and shows events", async () => {
    const greeted = await request(at("/commands/Greet"), { body: { name: "Ada" } });
    assert.equal(greeted.status, 200, greeted.text);
    assert.equal(greeted.body.result, "Hello, Ada");
    assert.deepEqual((await request(at("/queries/Greetings"))).body, { count: 1 });

    const published = await request(at("/topics/greetings"), {
      body: event({ name: "Bob" }),
      headers: STRUCTURED,
    });
    assert.equal(published.status, 202, published.text);
    assert.deepEqual(published.body, { ids: ["e-1"] });
  });

  const refused:
    readonly (readonly [what: string, status: number, code: string, send: () => Promise<Answer>])[] = [
      ["an unknown address", 404, "ROUTE_NOT_FOUND", () => request(at("/nowhere"))],
      ["another method", 405, "METHOD_NOT_ALLOWED", () => request(at("/commands/Greet"), { method: "PUT" })],
      [
        "an unknown topic",
        404,
        "UNKNOWN_TOPIC",
        () => request(at("/topics/elsewhere"), { body: event({}), headers: STRUCTURED }),
      ],
      ["an unknown topic to follow", 404, "UNKNOWN_TOPIC", () => request(at("/topics/elsewhere/events"))],
      ["an unknown command", 404, "HANDLER_NOT_FOUND", () => request(at("/commands/Grate"), { body: {} })],
      ["an unknown query", 404, "HANDLER_NOT_FOUND", () => request(at("/queries/Gratings"))],
      [
        "malformed JSON",
        400,
        "MALFORMED_MESSAGE",
        () => request(at("/commands/Greet"), { body: '{"name":' }),
      ],
      ["no body", 400, "MALFORMED_MESSAGE", () => request(at("/commands/Greet"), { body: "" })],
      [
        "a member given twice",
        400,
        "MALFORMED_MESSAGE",
        () => request(at("/commands/Greet"), { body: '{"name":"a","name":"b"}' }),
      ],
      [
        "another content type",
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        () => request(at("/commands/Greet"), { body: "name=Ada", headers: { "content-type": "text/plain" } }),
      ],
      [
        "an event that says of itself it is plain JSON",
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        () => request(at("/topics/greetings"), { body: event({ name: "Bob" }) }),
      ],
      [
        "a body of 300 KB",
        413,
        "PAYLOAD_TOO_LARGE",
        () => request(at("/commands/Greet"), { body: { name: "x".repeat(300_000) } }),
      ],
      [
        "200 levels of nesting",
        422,
        "PAYLOAD_TOO_DEEP",
        () => request(at("/commands/Greet"), { body: `{"name":${"[".repeat(200)}${"]".repeat(200)}}` }),
      ],
      [
        "another schema",
        422,
        "VALIDATION_FAILED",
        () => request(at("/commands/Greet"), { body: { name: 7 } }),
      ],
      [
        "an empty name",
        422,
        "VALIDATION_FAILED",
        () => request(at("/commands/Greet"), { body: { name: "" } }),
      ],
      [
        "an event of another schema",
        422,
        "VALIDATION_FAILED",
        () => request(at("/topics/greetings"), { body: event({ name: null }), headers: STRUCTURED }),
      ],
      [
        "an event without a type",
        422,
        "VALIDATION_FAILED",
        () =>
          request(at("/topics/greetings"), { body: { specversion: "1.0", id: "e" }, headers: STRUCTURED }),
      ],
      [
        "percent-encoding that is none",
        400,
        "INVALID_ARGUMENT",
        () => request(at("/streams/%ff"), {}),
      ],
    ];
  for (const [what, status, code, send] of refused) {
    test(`refuses ${what} with ${status} ${code}`, async () => assertProblem(await send(), status, code));
  }

  test("is still there, as if nothing had been asked", async () => {
    const greeted = await request(at("/commands/Greet"), { body: { name: "Grace" } });
    assert.equal(greeted.status, 200, greeted.text);
    assert.deepEqual((await request(at("/queries/Greetings"))).body, { count: 2 });
    assert.equal((await request(at("/health/ready"))).status, 200);
    const end = await within(8_000, toldToEnd(gateway), "still running");
    assert.deepEqual(end, { code: 0, signal: null }, gateway.process.output());
  });
});

describe("a command that cannot run says why and ends", () => {
  const APP = module("gateway_app");
  const cases: readonly (readonly [what: string, args: readonly string[], code: number, says: RegExp])[] = [
    [
      "for a port that is no number",
      ["gateway", APP, "--port=http"],
      2,
      /Cannot listen on port "http": expected 0 to 65535/,
    ],
    [
      "for a port out of range",
      ["demo", "--port=65536"],
      2,
      /Cannot listen on port "65536": expected 0 to 65535/,
    ],
    ["for an unknown option", ["demo", "--prot=80"], 1, /--prot/],
    ["for an unknown command", ["dmeo"], 2, /Usage:/],
    ["without a command", [], 2, /Usage:/],
    ["for a module that is not there", ["gateway", "./not_there.ts", "--port=0"], 1, /not_there\.ts/],
    [
      "for a module without an application",
      ["gateway", module("no_app"), "--port=0"],
      1,
      /Cannot use \S+no_app\.[tj]s: expected its default export to be an application/,
    ],
  ];
  for (const [what, args, code, says] of cases) {
    test(what, async () => {
      const script = runCli(args);
      try {
        assert.deepEqual(await within(START_MS, script.ended), { code, signal: null }, script.output());
        assert.match(script.output(), says);
        assert.doesNotMatch(script.output(), /\n\s+at /, "a stack helps nobody here");
      } finally {
        await script.kill9();
      }
    });
  }

  test("for a port that is taken", async () => {
    await using first = await serving(runCli(["gateway", APP, "--port=0"]), "Millstream gateway on ");
    const { port } = new URL(first.address);
    await using second = runCli(["gateway", APP, `--port=${port}`]);
    assert.equal((await within(START_MS, second.ended)).code, 1, second.output());
    assert.match(
      second.output(),
      new RegExp(`Cannot listen on 127\\.0\\.0\\.1:${port}: something else listens there`),
    );
  });
});

const STRUCTURED = { "content-type": "application/cloudevents+json" };

function event(data: unknown): Record<string, unknown> {
  return { specversion: "1.0", id: "e-1", type: "greeted", source: "/tests", data };
}

/** A module beside this one, compiled where this one is. */
function module(name: string): string {
  const extension = import.meta.url.endsWith(".js") ? "js" : "ts";
  return fileURLToPath(new URL(`./support/${name}.${extension}`, import.meta.url));
}
