#!/usr/bin/env node
/**
 * The `millstream` command.
 *
 * @module
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { runDemo } from "./demo/run.ts";
import { runGateway } from "./gateway.ts";

const USAGE = `Usage:
  millstream demo                    the order flow and GitHub's webhooks, ready to try
  millstream gateway [app module]    an application on HTTP; the module's default export is what millstream() returns

Options:
  --port <n>       where to listen (PORT, else 8080)
  --host <name>    on which address (HOST, else 127.0.0.1)
  --no-feed        demo: do not send the webhooks

Environment: DATABASE_URL (Postgres; else PGlite), DATA_DIR (PGlite's folder, else .millstream), REDIS_URL (Redis Streams)`;

async function main(): Promise<number | undefined> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      port: { type: "string" },
      host: { type: "string" },
      "no-feed": { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
  const [command, module] = positionals;
  if (values.help) return say(console.log, USAGE, 0);
  // A variable that is set to nothing is not set; as a host it would mean every address of the machine.
  const port = Number(values.port ?? (process.env.PORT || 8080));
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    return say(
      console.error,
      `Cannot listen on port ${JSON.stringify(values.port ?? process.env.PORT)}: expected 0 to 65535`,
      2,
    );
  }
  const hostname = values.host ?? (process.env.HOST || "127.0.0.1");
  if (command === "demo") return void await runDemo({ port, hostname, feed: !values["no-feed"] });
  if (command === "gateway") return void await runGateway({ module, port, hostname });
  return say(console.error, USAGE, 2);
}

function say(print: (text: string) => void, text: string, code: number): number {
  print(text);
  return code;
}

main().then((code) => {
  if (code !== undefined) process.exitCode = code;
}, (error: unknown) => {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});
