/**
 * Private message brokers, each started by the program that the distribution's package brings.
 *
 * @module
 */
import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { freePort, onPath, parentDeath, type PrivateServer, start } from "./servers.ts";

/** Options of {@linkcode startRabbitmq}. */
export interface RabbitmqOptions {
  /** More lines of `rabbitmq.conf`, such as `["max_message_size = 65536"]`. */
  readonly config?: readonly string[];
  /** Fixed port. @default a free one */
  readonly port?: number;
  /** Also ends when the process that started it dies without a word. Linux, Node. @default false */
  readonly diesWithParent?: boolean;
}

/** Options of {@linkcode startNats}. */
export interface NatsOptions {
  /** More lines of the server's configuration. */
  readonly config?: readonly string[];
  /** Fixed port. @default a free one */
  readonly port?: number;
  /** Also ends when the process that started it dies without a word. Linux, Node. @default false */
  readonly diesWithParent?: boolean;
}

/**
 * A private RabbitMQ on loopback, user `guest`, with a node name, a cookie and a name server (epmd) of its own. Runs as
 * whoever starts it, root included.
 */
export async function startRabbitmq(options: RabbitmqOptions = {}): Promise<PrivateServer> {
  const binary = rabbitmqBinary();
  if (!binary) throw new Error("Cannot start RabbitMQ: expected rabbitmq-server on the PATH");
  const port = options.port ?? await freePort();
  const names = await freePort();
  const nodes = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "rabbitmq-"));
  writeFileSync(join(folder, "enabled_plugins"), "[].\n");
  writeFileSync(join(folder, "rabbitmq.conf"), (options.config ?? []).map((line) => `${line}\n`).join(""));
  // The name server is a child of the same process, so it ends with it.
  const epmd = [...parentDeath(true, "KILL"), "epmd", "-port", String(names)].join(" ");
  return await start({
    url: `amqp://guest:guest@127.0.0.1:${port}`,
    port,
    folder,
    command: [
      ...parentDeath(options.diesWithParent, "TERM"),
      "sh",
      "-c",
      `${epmd} & exec ${binary}`,
    ],
    env: {
      HOME: folder,
      ERL_EPMD_PORT: String(names),
      ERL_EPMD_ADDRESS: "127.0.0.1",
      RABBITMQ_NODENAME: `test-${port}@localhost`,
      RABBITMQ_NODE_IP_ADDRESS: "127.0.0.1",
      RABBITMQ_NODE_PORT: String(port),
      RABBITMQ_DIST_PORT: String(nodes),
      RABBITMQ_MNESIA_BASE: join(folder, "data"),
      RABBITMQ_LOG_BASE: join(folder, "log"),
      RABBITMQ_LOGS: "-",
      RABBITMQ_CONFIG_FILE: join(folder, "rabbitmq"),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, "enabled_plugins"),
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "+sbwt none +sbwtdcpu none +sbwtdio none",
      RUNNING_UNDER_SYSTEMD: "true", // the shell becomes the server, and the process id stays
    },
    endSignal: "SIGTERM",
    ready: (log) => log.includes("Server startup complete"),
    patienceMs: 90_000,
  });
}

/** A private NATS server with JetStream on loopback. */
export async function startNats(options: NatsOptions = {}): Promise<PrivateServer> {
  const binary = natsBinary();
  if (!binary) throw new Error("Cannot start NATS: expected nats-server on the PATH");
  const port = options.port ?? await freePort();
  const folder = mkdtempSync(join(tmpdir(), "nats-"));
  const config = join(folder, "nats.conf");
  const lines = [
    `listen: "127.0.0.1:${port}"`,
    `jetstream { store_dir: ${JSON.stringify(join(folder, "data"))} }`,
    ...options.config ?? [],
  ];
  writeFileSync(config, lines.map((line) => `${line}\n`).join(""));
  return await start({
    url: `nats://127.0.0.1:${port}`,
    port,
    folder,
    command: [...parentDeath(options.diesWithParent, "TERM"), binary, "-c", config],
    endSignal: "SIGTERM",
    ready: (log) => log.includes("Server is ready"),
  });
}

/**
 * Path of `rabbitmq-server`, if there is one. Debian's on the PATH is a wrapper that changes the user; the one it calls
 * runs as anybody.
 */
export function rabbitmqBinary(): string | undefined {
  const own = "/usr/lib/rabbitmq/bin/rabbitmq-server";
  return process.env.MILLSTREAM_RABBITMQ_SERVER || (existsSync(own) ? own : onPath("rabbitmq-server"));
}

/** Path of `nats-server`, if there is one. */
export function natsBinary(): string | undefined {
  return process.env.MILLSTREAM_NATS_SERVER || onPath("nats-server");
}
