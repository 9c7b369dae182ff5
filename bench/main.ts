/**
 * The benchmarks' command; `npm run bench` gets the servers and runs it. See `README.md`.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { arch, cpus, platform } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { type Figure, type Prepared, race, table } from "./harness.ts";
import { prepareKafka } from "./kafka.ts";
import { prepareNats } from "./nats.ts";
import { preparePostgres } from "./postgres.ts";
import { preparePostgresBroker } from "./postgres_broker.ts";
import { prepareProjections } from "./projections.ts";
import { prepareRabbitmq } from "./rabbitmq.ts";
import { prepareRedis } from "./redis.ts";
import { prepareSagas } from "./sagas.ts";

const USAGE =
  "npm run bench -- [--only=redis|postgres|broker|sagas|projections|rabbitmq|nats|kafka] [--rounds=5] [--quick] [--json] [--runtime=node|node24|bun|deno]";
const SUBJECTS = {
  redis: "REDIS_URL",
  postgres: "DATABASE_URL",
  broker: "DATABASE_URL",
  sagas: "DATABASE_URL",
  projections: "DATABASE_URL",
  rabbitmq: "RABBITMQ_URL",
  nats: "NATS_URL",
  kafka: "KAFKA_URL",
} as const;
type Subject = keyof typeof SUBJECTS;

/** What the command line asks for. */
interface Flags {
  readonly subjects: readonly Subject[];
  readonly rounds: number;
  readonly quick: boolean;
  readonly json: boolean;
}

try {
  const flags = readFlags(process.argv.slice(2));
  for (const subject of flags.subjects) report(flags, await measure(subject, flags));
} catch (error) {
  progress("");
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}

interface Report {
  readonly about: Readonly<Record<string, string>>;
  readonly figures: readonly Figure[];
}

async function measure(subject: Subject, { rounds, quick }: Flags): Promise<Report> {
  const url = process.env[SUBJECTS[subject]];
  if (!url) throw new Error(`Cannot measure ${subject}: expected its address in ${SUBJECTS[subject]}`);
  const scale = quick ? 0.1 : 1;
  const prepared = await prepare(subject, url, scale);
  try {
    const figures: Figure[] = [];
    for (const question of prepared.questions) figures.push(...await race(question, { rounds, progress }));
    progress("");
    return { about: { ...machine(), ...drivers(), ...prepared.about }, figures };
  } finally {
    await prepared[Symbol.asyncDispose]?.();
  }
}

async function prepare(subject: Subject, url: string, scale: number): Promise<Prepared> {
  if (subject === "redis") return await prepareRedis(url, 20_000 * scale);
  if (subject === "postgres") return await preparePostgres(url, scale);
  if (subject === "rabbitmq") return await prepareRabbitmq(url, 20_000 * scale);
  if (subject === "nats") return await prepareNats(url, 20_000 * scale);
  if (subject === "kafka") return await prepareKafka(url, 20_000 * scale);
  if (subject === "sagas") return await prepareSagas(url, scale);
  if (subject === "projections") return await prepareProjections(url, 100_000 * scale);
  return await preparePostgresBroker(url, 20_000 * scale);
}

function report({ json, rounds, quick }: Flags, { about, figures }: Report): void {
  if (json) {
    for (const figure of figures) process.stdout.write(`${JSON.stringify({ ...figure, quick, ...about })}\n`);
    return;
  }
  const facts = Object.entries(about).map(([name, value]) => `${name} ${value}`).join(", ");
  const how = `Medians of ${rounds} interleaved rounds${quick ? ", quick: too short to quote" : ""}.`;
  process.stdout.write(`\n${table(figures)}\n\n${how} ${facts}\n`);
}

function readFlags(args: string[]): Flags {
  const { values } = parseArgs({
    args,
    options: {
      only: { type: "string" },
      rounds: { type: "string", default: "5" },
      quick: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
    },
  });
  const { only, quick, json } = values;
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) {
    throw new Error(`Cannot use --rounds=${values.rounds}: expected a whole number from 1\n${USAGE}`);
  }
  const subjects = Object.keys(SUBJECTS) as Subject[];
  // Brokers behind adapters are measured where their server is, or where they are asked for.
  const here = subjects.filter((subject) =>
    !/^(rabbitmq|nats|kafka)$/.test(subject) || process.env[SUBJECTS[subject]]
  );
  const chosen = only === undefined ? here : subjects.filter((subject) => subject === only);
  if (chosen.length === 0) {
    throw new Error(`Cannot use --only=${only}: expected ${subjects.join(" or ")}\n${USAGE}`);
  }
  return { subjects: chosen, rounds, quick, json };
}

function machine(): Record<string, string> {
  const { bun, deno, node } = process.versions;
  const runtime = bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node ${node}`;
  const processors = cpus();
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: `${processors.length} × ${processors[0]?.model ?? "unknown"}, ${platform()} ${arch()}`,
    runtime,
  };
}

function drivers(): Record<string, string> {
  return { ioredis: versionOf("ioredis"), "postgres.js": versionOf("postgres") };
}

/** The version of an installed package: that of the nearest `node_modules` above this file. */
function versionOf(name: string): string {
  let folder = new URL(".", import.meta.url);
  for (;;) {
    try {
      return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, folder), "utf8")).version;
    } catch {
      const above = new URL("..", folder);
      if (above.href === folder.href) return "unknown";
      folder = above;
    }
  }
}

/** Shows what runs now, in one line that the next call replaces. Only where somebody watches. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}
