/**
 * The servers that the tests and benchmarks run against. Each is taken from the first of: its address in the
 * environment, a binary on this machine, Docker, the distribution's package. What was started here is stopped again.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";
import { compile } from "./compile.mjs";
import { ROOT } from "./install.mjs";
import { onEnd, run } from "./process.mjs";
import { findRuntime } from "./runtimes.mjs";

/**
 * @typedef {object} Service
 * @property {string} name
 * @property {string} env The variable its address stands in.
 * @property {boolean} [onDemand] It is wanted only by what has its name in its own, such as `nats_broker.test.ts`.
 * @property {(servers: Servers) => string | undefined} [find] Where its binary is.
 * @property {(servers: Servers) => Promise<{ url: string, stop: () => Promise<void> }>} [start] Starts it privately.
 * @property {string} [apt] The distribution's package that brings the binary.
 * @property {Container} container
 */
/**
 * @typedef {object} Container
 * @property {string} image Another one stands in MILLSTREAM_<NAME>_IMAGE, such as MILLSTREAM_REDIS_IMAGE: from a
 * registry of one's own, or another version. It has to behave as this one does.
 * @property {number} port
 * @property {string} url With HOST and PORT to be filled in.
 * @property {string} ready A line of its log that says it is up.
 * @property {number} [times] How often that line comes before it is. 1 by default.
 * @property {string[]} [command]
 * @property {Record<string, string>} [environment]
 */
/** @typedef {typeof import("../support/servers.ts") & typeof import("../support/brokers.ts") &
 * typeof import("../support/java_brokers.ts")} Servers */

/** @type {Service[]} */
const SERVICES = [
  {
    name: "redis",
    env: "REDIS_URL",
    find: ({ redisBinary }) => redisBinary(),
    start: ({ startRedis }) => startRedis({ diesWithParent: true }),
    apt: "redis-server",
    container: {
      image: "redis:7-alpine",
      port: 6379,
      url: "redis://HOST:PORT",
      ready: "Ready to accept connections",
      command: [
        "redis-server",
        "--save",
        "",
        "--appendonly",
        "yes",
        "--maxmemory-policy",
        "noeviction",
      ],
    },
  },
  {
    name: "postgres",
    env: "DATABASE_URL",
    find: ({ postgresBinaries }) => postgresBinaries(),
    start: ({ startPostgres }) => startPostgres({ diesWithParent: true }),
    apt: "postgresql",
    container: {
      image: "postgres:17-alpine",
      port: 5432,
      url: "postgres://millstream@HOST:PORT/postgres",
      ready: "database system is ready to accept connections",
      times: 2,
      command: ["postgres", "-c", "max_connections=200"],
      environment: {
        POSTGRES_USER: "millstream",
        POSTGRES_DB: "postgres",
        POSTGRES_HOST_AUTH_METHOD: "trust",
      },
    },
  },
  {
    name: "rabbitmq",
    env: "RABBITMQ_URL",
    onDemand: true,
    find: ({ rabbitmqBinary }) => rabbitmqBinary(),
    start: ({ startRabbitmq }) => startRabbitmq({ diesWithParent: true }),
    apt: "rabbitmq-server",
    container: {
      image: "rabbitmq:4-alpine",
      port: 5672,
      url: "amqp://guest:guest@HOST:PORT",
      ready: "Server startup complete",
    },
  },
  {
    name: "nats",
    env: "NATS_URL",
    onDemand: true,
    find: ({ natsBinary }) => natsBinary(),
    start: ({ startNats }) => startNats({ diesWithParent: true }),
    apt: "nats-server",
    container: {
      image: "nats:2-alpine",
      port: 4222,
      url: "nats://HOST:PORT",
      ready: "Server is ready",
      command: ["-js"],
    },
  },
  {
    name: "kafka",
    env: "KAFKA_URL",
    onDemand: true,
    find: ({ kafkaLibs }) => kafkaLibs(),
    start: ({ startKafka }) => startKafka({ diesWithParent: true }),
    apt: "maven",
    container: {
      image: "apache/kafka-native:4.0.0",
      port: 9092,
      url: "kafka://HOST:PORT",
      ready: "Kafka Server started",
    },
  },
  {
    name: "sqs",
    env: "SQS_URL",
    onDemand: true,
    find: ({ elasticmqLibs }) => elasticmqLibs(),
    start: ({ startElasticmq }) => startElasticmq({ diesWithParent: true }),
    apt: "maven",
    container: {
      image: "softwaremill/elasticmq-native:1.6.12",
      port: 9324,
      url: "http://HOST:PORT",
      ready: "started in",
    },
  },
];

/**
 * Binaries that tests start private servers with, even where the shared server came from elsewhere.
 *
 * @type {{ service: string, name: string, env: string, find?: Service["find"], apt?: string, wantedBy?: string }[]}
 */
const BINARIES = [
  { service: "redis", name: "redis-server", env: "MILLSTREAM_REDIS_SERVER" },
  {
    service: "postgres",
    name: "postgres-server",
    env: "MILLSTREAM_POSTGRES_BIN",
  },
  {
    service: "postgres",
    name: "pgbouncer",
    env: "MILLSTREAM_PGBOUNCER",
    find: ({ pgbouncerBinary }) => pgbouncerBinary(),
    apt: "pgbouncer",
    wantedBy: "pooler",
  },
  { service: "rabbitmq", name: "rabbitmq-server", env: "MILLSTREAM_RABBITMQ_SERVER" },
  { service: "nats", name: "nats-server", env: "MILLSTREAM_NATS_SERVER" },
  { service: "kafka", name: "kafka-server", env: "MILLSTREAM_KAFKA_LIBS" },
  { service: "sqs", name: "elasticmq", env: "MILLSTREAM_ELASTICMQ_LIBS" },
];

/**
 * Gets every service that is needed.
 *
 * @param {readonly string[]} wantedBy Names of what is to run: the paths of test files, the subjects of benchmarks.
 * @returns {Promise<{ env: Record<string, string>, had: string[], missing: { name: string, reason: string }[] }>} `env`
 * is for the processes that use the services; `had` says in words where each came from.
 */
export async function startServices(wantedBy) {
  const scratch = mkdtempSync(`${tmpdir()}/millstream-`);
  chmodSync(scratch, 0o755); // Postgres runs as another user
  onEnd(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 5 }));
  process.env.TMPDIR = scratch;

  const servers = await loadServers();
  /** @type {Record<string, string>} */
  const env = { TMPDIR: scratch };
  /** @type {string[]} */
  const had = [];
  /** @type {{ name: string, reason: string }[]} */
  const missing = [];
  const wanted = SERVICES.filter(({ name, onDemand }) =>
    !onDemand || wantedBy.some((who) => who.includes(name))
  );
  for (const service of wanted) {
    const got = await getService(service, servers);
    if ("url" in got) {
      env[service.env] = got.url;
      had.push(`${service.name}: ${got.from}`);
    } else missing.push({ name: service.name, reason: got.reason });
  }
  for (const binary of BINARIES) {
    const { service, name, env: variable, wantedBy: who } = binary;
    const found = wanted.find((candidate) => candidate.name === service);
    if (!found || (who && !wantedBy.some((one) => one.includes(who)))) continue;
    const { find = found.find, apt = found.apt ?? "" } = binary;
    // An address in the environment says: use this. Nothing is installed then, except where all must run.
    let reason = "no binary on this machine";
    if (!find?.(servers) && process.env.REQUIRE_ALL === "1") {
      reason = await aptInstall(apt) ?? reason;
    }
    const path = find?.(servers);
    if (path) env[variable] = path;
    else missing.push({ name, reason });
  }
  const template = servers.postgresTemplate(`${scratch}/template`);
  if (template) env.MILLSTREAM_POSTGRES_TEMPLATE = template;
  env.MILLSTREAM_MISSING = JSON.stringify(
    Object.fromEntries(missing.map(({ name, reason }) => [name, reason])),
  );
  return { env, had, missing };
}

/** The same code starts the private servers of the tests. */
/** @returns {Promise<Servers>} */
async function loadServers() {
  const folder = `${ROOT}/tests/.build/tests/support`;
  if (!existsSync(`${folder}/java_brokers.js`)) await compile();
  const parts = ["servers", "brokers", "java_brokers"].map((part) => import(`${folder}/${part}.js`));
  return Object.assign({}, ...await Promise.all(parts));
}

/** @param {Service} service @param {Servers} servers @returns {Promise<{ url: string, from: string } | { reason: string }>} */
async function getService(service, servers) {
  /** @type {string[]} */
  const reasons = [];
  const ways = [fromEnvironment, fromBinary, fromDocker, fromPackage];
  if (process.env.TESTCONTAINERS === "1") ways.unshift(fromDocker);
  for (const way of ways) {
    try {
      const got = await way(service, servers);
      if ("url" in got) return got;
      reasons.push(got.reason);
    } catch (error) {
      reasons.push(String(error instanceof Error ? error.message : error).trim());
    }
  }
  return { reason: [...new Set(reasons)].join("; ") };
}

/** @param {Service} service */
function fromEnvironment({ env }) {
  const url = process.env[env];
  return url ? { url, from: `${env} in the environment` } : { reason: `${env} is not set` };
}

/** @param {Service} service @param {Servers} servers */
async function fromBinary({ find, start }, servers) {
  const binary = find?.(servers);
  if (!binary || !start) return { reason: "no binary on this machine" };
  const server = await start(servers);
  onEnd(() => server.stop());
  return {
    url: server.url,
    from: `${binary}, private at ${new URL(server.url).host}`,
  };
}

/** Containers are held by a process on the newer Node of the tests, which testcontainers needs. */
/** @param {Service} service */
async function fromDocker({ name, container }) {
  const engine = await run("docker", ["version", "--format", "{{.Server.Version}}"], { limitMs: 15_000 });
  if (engine.code !== 0 && !process.env.DOCKER_HOST) {
    return { reason: "no Docker engine answers" };
  }
  const node = await findRuntime("node24");
  if (!node) {
    return { reason: "testcontainers needs the Node of tests/node_modules" };
  }
  const image = process.env[`MILLSTREAM_${name.toUpperCase()}_IMAGE`] || container.image;
  const holder = spawn(node, [
    `${ROOT}/tests/tools/container.mjs`,
    JSON.stringify({ ...container, image }),
  ], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true, // Ctrl-C reaches the whole process group: the container is ended after those who use it
  });
  let ending = false;
  onEnd(() => {
    ending = true;
    return endHolder(holder);
  });
  for await (const line of createInterface({ input: holder.stdout })) {
    const answer = JSON.parse(line);
    if (answer.error) return { reason: `Docker, ${image}: ${answer.error.trim()}` };
    return {
      url: container.url.replace("HOST", answer.host).replace("PORT", answer.port),
      from: `Docker, ${image}`,
    };
  }
  if (ending) await new Promise(() => {}); // the run is being stopped: no other way is tried
  return { reason: `Docker, ${image}: the container's process ended` };
}

/** @param {import("node:child_process").ChildProcess} holder */
function endHolder(holder) {
  if (holder.exitCode !== null || holder.signalCode !== null) return;
  return new Promise((resolve) => {
    holder.once("exit", resolve);
    holder.stdin?.end(); // it removes its container and ends
    setTimeout(() => holder.kill("SIGKILL"), 15_000).unref();
  });
}

/** @param {Service} service @param {Servers} servers */
async function fromPackage(service, servers) {
  const failed = await aptInstall(service.apt);
  return failed ? { reason: failed } : await fromBinary(service, servers);
}

/** @type {Map<string, Promise<string | undefined>>} */
const installs = new Map();

/** Installs a package once. @param {string | undefined} name @returns {Promise<string | undefined>} Why it failed. */
function aptInstall(name) {
  if (!name) return Promise.resolve("no package of the distribution has it");
  const started = installs.get(name) ?? aptGet(name);
  installs.set(name, started);
  return started;
}

let updated = false;

/** @param {string} name */
async function aptGet(name) {
  if (!/^ID(_LIKE)?=.*(debian|ubuntu)/m.test(read("/etc/os-release"))) {
    return "installing it needs Debian or Ubuntu";
  }
  if (process.getuid?.() !== 0) {
    return `installing the package ${name} needs root`;
  }
  console.log(`Installing the package ${name}`);
  const env = {
    ...process.env,
    DEBIAN_FRONTEND: "noninteractive",
    RUNLEVEL: "1",
  };
  const lock = ["-o", "DPkg::Lock::Timeout=120"];
  if (!updated) {
    const update = await run("apt-get", [...lock, "update", "-q"], { env });
    if (update.code !== 0) {
      return `apt-get update ended with ${update.code}: ${update.output.trim().slice(-300)}`;
    }
    updated = true;
  }
  const undo = refuseToStartServices();
  try {
    const args = [...lock, "install", "-y", "-q", "--no-install-recommends", name];
    const { code, output } = await run("apt-get", args, { env });
    return code === 0
      ? undefined
      : `apt-get install ${name} ended with ${code}: ${output.trim().slice(-300)}`;
  } finally {
    undo();
  }
}

/** Debian starts what it installs, unless this file says no. One that is there already is respected. */
function refuseToStartServices() {
  const policy = "/usr/sbin/policy-rc.d";
  if (existsSync(policy)) return () => {};
  writeFileSync(policy, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  const undo = () => rmSync(policy, { force: true });
  onEnd(undo);
  return undo;
}

/** @param {string} path */
function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
