/**
 * Private message brokers that run on Java: Kafka, and ElasticMQ for SQS. Maven Central brings them once, into a folder
 * of the user's cache; that needs `java` and `mvn`.
 *
 * @module
 */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { freePort, onPath, parentDeath, type PrivateServer, start } from "./servers.ts";

/** Options of {@linkcode startKafka}. */
export interface KafkaServerOptions {
  /** More lines of `server.properties`, such as `["message.max.bytes=20000"]`. */
  readonly config?: readonly string[];
  /** Fixed port. @default a free one */
  readonly port?: number;
  /** The port that clients are told to connect to, such as a proxy's. @default `port` */
  readonly advertisedPort?: number;
  /** Also ends when the process that started it dies without a word. Linux, Node. @default false */
  readonly diesWithParent?: boolean;
}

/** Options of {@linkcode startElasticmq}. */
export interface ElasticmqOptions {
  /** Fixed port. @default a free one */
  readonly port?: number;
  /** Whether queues and messages outlive a restart. @default false */
  readonly persistent?: boolean;
  /** Also ends when the process that started it dies without a word. Linux, Node. @default false */
  readonly diesWithParent?: boolean;
}

const KAFKA = "org.apache.kafka:kafka_2.13:4.0.0";
const ELASTICMQ = "org.elasticmq:elasticmq-server_2.13:1.6.12";
const LOGGER = "org.slf4j:slf4j-simple:1.7.36";
/** Small and quick to start: nobody measures these. */
const JVM = ["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"];

/**
 * A private Kafka of one node on loopback, which is its own controller (KRaft). Groups begin without waiting for more
 * members, and members may have sessions as short as 100 ms.
 */
export async function startKafka(options: KafkaServerOptions = {}): Promise<PrivateServer> {
  const libs = kafkaLibs();
  if (!libs) throw new Error("Cannot start Kafka: expected java and mvn on the PATH");
  const port = options.port ?? await freePort();
  const controller = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "kafka-"));
  cpSync(formattedStorage(libs), join(folder, "data"), { recursive: true });
  const config = join(folder, "server.properties");
  const advertised = options.advertisedPort ?? port;
  writeFileSync(config, kafkaConfig(join(folder, "data"), port, controller, advertised, options.config));
  return await start({
    url: `kafka://127.0.0.1:${advertised}`,
    port,
    folder,
    command: [
      ...parentDeath(options.diesWithParent, "KILL"),
      "java",
      ...JVM,
      "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
      "-cp",
      join(libs, "*"),
      "kafka.Kafka",
      config,
    ],
    endSignal: "SIGTERM",
    ready: () => accepts(port),
    patienceMs: 90_000,
  });
}

/** A private ElasticMQ on loopback. */
export async function startElasticmq(options: ElasticmqOptions = {}): Promise<PrivateServer> {
  const libs = elasticmqLibs();
  if (!libs) throw new Error("Cannot start ElasticMQ: expected java and mvn on the PATH");
  const port = options.port ?? await freePort();
  const folder = mkdtempSync(join(tmpdir(), "elasticmq-"));
  const config = join(folder, "elasticmq.conf");
  const { persistent = false } = options;
  writeFileSync(
    config,
    [
      'include classpath("application.conf")',
      `rest-sqs { enabled = true, bind-hostname = "127.0.0.1", bind-port = ${port}, sqs-limits = strict }`,
      `node-address { protocol = http, host = "127.0.0.1", port = ${port}, context-path = "" }`,
      "rest-stats { enabled = false }",
      `messages-storage { enabled = ${persistent}, driver-class = "org.h2.Driver", uri = "jdbc:h2:${folder}/messages", username = "sa", password = "" }`,
      `queues-storage { enabled = ${persistent}, path = "${folder}/queues.conf" }`,
      "",
    ].join("\n"),
  );
  return await start({
    url: `http://127.0.0.1:${port}`,
    port,
    folder,
    command: [
      ...parentDeath(options.diesWithParent, "KILL"),
      "java",
      ...JVM,
      `-Dconfig.file=${config}`,
      "-cp",
      join(libs, "*"),
      "org.elasticmq.server.Main",
    ],
    endSignal: "SIGTERM",
    ready: () => accepts(port),
    patienceMs: 90_000,
  });
}

/** Folder of Kafka's jars, brought by Maven if need be; nothing without Java or Maven. */
export function kafkaLibs(): string | undefined {
  return process.env.MILLSTREAM_KAFKA_LIBS || jars([KAFKA, LOGGER]);
}

/** Folder of ElasticMQ's jars, brought by Maven if need be; nothing without Java or Maven. */
export function elasticmqLibs(): string | undefined {
  return process.env.MILLSTREAM_ELASTICMQ_LIBS || jars([ELASTICMQ]);
}

function jars(artifacts: readonly string[]): string | undefined {
  const [first = ""] = artifacts;
  const [, name = "", version = ""] = first.split(":");
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  const home = join(cache, "millstream", `${name}-${version}`);
  const libs = join(home, "libs");
  if (!onPath("java")) return undefined;
  if (existsSync(libs)) return libs;
  if (!onPath("mvn")) return undefined;
  mkdirSync(join(cache, "millstream"), { recursive: true });
  const scratch = mkdtempSync(`${home}.`); // renamed when it is whole
  writeFileSync(join(scratch, "pom.xml"), pom(artifacts));
  const goal = [
    "-B",
    "-q",
    "dependency:copy-dependencies",
    "-DoutputDirectory=libs",
    "-DincludeScope=runtime",
  ];
  execFileSync("mvn", goal, { cwd: scratch, stdio: ["ignore", "ignore", "pipe"], timeout: 300_000 });
  take(scratch, home);
  return libs;
}

function pom(artifacts: readonly string[]): string {
  const dependencies = artifacts.map((artifact) => {
    const [group, name, version] = artifact.split(":");
    return `<dependency><groupId>${group}</groupId><artifactId>${name}</artifactId><version>${version}</version></dependency>`;
  });
  return `<project><modelVersion>4.0.0</modelVersion><groupId>millstream</groupId><artifactId>servers</artifactId>` +
    `<version>1</version><dependencies>${dependencies.join("")}</dependencies></project>\n`;
}

/** Storage as Kafka's own tool prepares it, to copy: the tool takes as long as the server's start. */
function formattedStorage(libs: string): string {
  const formatted = join(libs, "..", "formatted");
  if (existsSync(formatted)) return formatted;
  const scratch = mkdtempSync(`${formatted}.`);
  const config = join(scratch, "server.properties");
  writeFileSync(config, kafkaConfig(join(scratch, "data"), 9092, 9093, 9092));
  const format = ["kafka.tools.StorageTool", "format", "-t", "bWlsbHN0cmVhbS10ZXN0cw", "-c", config];
  execFileSync("java", [...JVM, "-cp", join(libs, "*"), ...format], { stdio: ["ignore", "ignore", "pipe"] });
  take(join(scratch, "data"), formatted);
  rmSync(scratch, { recursive: true, force: true });
  return formatted;
}

/** Renames, unless another process was first. */
function take(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!existsSync(to)) throw error;
    rmSync(from, { recursive: true, force: true });
  }
}

function kafkaConfig(
  data: string,
  port: number,
  controller: number,
  advertised: number,
  more: readonly string[] = [],
): string {
  return [
    "process.roles=broker,controller",
    "node.id=1",
    `controller.quorum.voters=1@127.0.0.1:${controller}`,
    `listeners=PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controller}`,
    `advertised.listeners=PLAINTEXT://127.0.0.1:${advertised}`,
    "controller.listener.names=CONTROLLER",
    "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    `log.dirs=${data}`,
    "offsets.topic.replication.factor=1",
    "offsets.topic.num.partitions=4",
    "transaction.state.log.replication.factor=1",
    "transaction.state.log.min.isr=1",
    "share.coordinator.state.topic.replication.factor=1",
    "share.coordinator.state.topic.min.isr=1",
    "group.initial.rebalance.delay.ms=0",
    "group.min.session.timeout.ms=100",
    "auto.create.topics.enable=false",
    "num.network.threads=2",
    "num.io.threads=2",
    "log.cleaner.dedupe.buffer.size=4194304",
    "broker.session.timeout.ms=1000", // a node that was killed may come back when this is over
    "broker.heartbeat.interval.ms=200",
    "controller.quorum.election.timeout.ms=200",
    "controller.quorum.election.backoff.max.ms=200",
    ...more,
    "",
  ].join("\n");
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
    socket.setTimeout(1_000, () => {
      socket.destroy();
      resolve(false);
    });
  });
}
