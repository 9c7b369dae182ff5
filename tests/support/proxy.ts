/**
 * A TCP proxy on loopback that misbehaves on demand: for what networks do and servers do not.
 *
 * @module
 */
import { connect, createServer, type Server, type Socket } from "node:net";

/**
 * - `pass`: bytes go both ways.
 * - `blackhole`: nothing goes any way, and nobody is told: what is sent waits, even the end of a connection, and new
 *   connections are accepted without an answer. Back in `pass` all of it arrives, as after a healed partition.
 * - `dropReplies`: the server gets what clients send, and executes it; its replies are lost. Connections that lost one
 *   are reset when the mode ends.
 * - `reset`: open connections are reset (RST), new ones as soon as they are accepted.
 * - `hangUp`: open connections are ended in order (FIN), new ones as soon as they are accepted.
 * - `refuse`: open connections are reset, and nobody listens.
 */
export type ProxyMode =
  | "pass"
  | "blackhole"
  | "dropReplies"
  | "reset"
  | "hangUp"
  | "refuse";

/** A running proxy. */
export interface Proxy extends AsyncDisposable {
  /** Where it listens, on 127.0.0.1. Stays the same. */
  readonly port: number;
  readonly mode: ProxyMode;
  /** Connections accepted so far. */
  readonly accepted: number;
  /** Connections open on the clients' side. */
  readonly open: number;
  /** Changes the mode, for open connections as well. Resolves when it is in force. */
  set(mode: ProxyMode): Promise<void>;
  /**
   * Changes the mode as soon as a client sends bytes that contain `text`, just before they are passed on. Resolves at
   * that moment, with the connection's number. Later calls replace earlier ones.
   */
  setOn(text: string, mode: ProxyMode): Promise<void>;
  /** Resets what is open now, whatever the mode. */
  resetAll(): void;
}

/** Options of {@linkcode startProxy}. */
export interface ProxyOptions {
  /** Host of the server. @default "127.0.0.1" */
  readonly host?: string;
  /** @default "pass" */
  readonly mode?: ProxyMode;
}

/** One connection through the proxy. */
interface Link {
  /** Passes on what has waited, if the mode allows it now. */
  flush(): void;
  reset(): void;
  hangUp(): void;
  /** Whether the client misses bytes that the server sent. */
  readonly broken: boolean;
}

/** Starts a proxy in front of the server at `targetPort`. */
export async function startProxy(
  targetPort: number,
  options: ProxyOptions = {},
): Promise<Proxy> {
  const { host = "127.0.0.1" } = options;
  let mode: ProxyMode = options.mode ?? "pass";
  let accepted = 0;
  let trap:
    | { readonly text: string; readonly mode: ProxyMode; sprung(): void }
    | undefined;
  const links = new Set<Link>();

  let server = await listen(0);
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : 0;

  function listen(onPort: number): Promise<Server> {
    const created = createServer(accept);
    return new Promise((resolve, reject) => {
      created.once("error", reject);
      created.listen(onPort, "127.0.0.1", () => resolve(created));
    });
  }

  function accept(client: Socket): void {
    accepted++;
    if (mode === "reset" || mode === "refuse") return resetSocket(client);
    if (mode === "hangUp") return hangUp(client);
    const link = join(
      client,
      connect(targetPort, host),
      () => mode,
      (bytes) => spring(bytes),
      () => {
        links.delete(link);
      },
    );
    links.add(link);
  }

  function spring(bytes: Uint8Array): void {
    if (!trap || !new TextDecoder("latin1").decode(bytes).includes(trap.text)) {
      return;
    }
    const { mode: next, sprung } = trap;
    trap = undefined;
    mode = next;
    sprung();
    if (next !== "dropReplies" && next !== "blackhole") void apply();
  }

  async function set(next: ProxyMode): Promise<void> {
    const before = mode;
    mode = next;
    if (before === "refuse" && next !== "refuse") server = await listen(port);
    await apply();
  }

  async function apply(): Promise<void> {
    for (const link of links) {
      if (
        mode === "reset" || mode === "refuse" ||
        (link.broken && mode !== "dropReplies")
      ) link.reset();
      else if (mode === "hangUp") link.hangUp();
      else link.flush();
    }
    if (mode === "refuse") await closed(server);
  }

  return {
    port,
    get mode() {
      return mode;
    },
    get accepted() {
      return accepted;
    },
    get open() {
      return links.size;
    },
    set,
    setOn: (text, next) => new Promise((sprung) => trap = { text, mode: next, sprung }),
    resetAll() {
      for (const link of links) link.reset();
    },
    async [Symbol.asyncDispose]() {
      mode = "reset";
      for (const link of links) link.reset();
      await closed(server);
    },
  };
}

/** Joins two sockets. Bytes and endings wait in line while the mode is `blackhole`. */
function join(
  client: Socket,
  upstream: Socket,
  mode: () => ProxyMode,
  onRequest: (bytes: Uint8Array) => void,
  onClosed: () => void,
): Link {
  const waiting: Array<() => void> = [];
  let broken = false;
  const pass = (action: () => void): void => {
    if (mode() === "blackhole" || waiting.length > 0) waiting.push(action);
    else action();
  };

  client.on("data", (bytes) => {
    onRequest(bytes as Uint8Array);
    pass(() => void upstream.write(bytes));
  });
  upstream.on("data", (bytes) => {
    if (mode() === "dropReplies") broken = true;
    else pass(() => void client.write(bytes));
  });
  client.on("error", () => {});
  upstream.on("error", () => {});
  client.on("end", () => pass(() => void upstream.end()));
  upstream.on("end", () => pass(() => void client.end()));
  client.on("close", () => {
    onClosedOnce();
    pass(() => void upstream.destroy());
  });
  upstream.on("close", () => pass(() => void client.destroy()));

  let counted = true;
  function onClosedOnce(): void {
    // A connection that a client has left stays known for as long as the server must not hear of it.
    if (counted && mode() !== "blackhole") onClosed();
    counted = counted && mode() === "blackhole";
  }

  const link: Link = {
    get broken() {
      return broken;
    },
    flush() {
      if (mode() === "blackhole") return;
      for (const action of waiting.splice(0)) action();
      if (client.destroyed) onClosedOnce();
    },
    reset() {
      resetSocket(client);
      resetSocket(upstream);
      onClosed();
    },
    hangUp() {
      hangUp(client);
      upstream.destroy();
      onClosed();
    },
  };
  return link;
}

function hangUp(socket: Socket): void {
  socket.on("error", () => {});
  socket.resume();
  socket.end();
  socket.once("end", () => socket.destroy());
}

/** A socket that has said goodbye is destroyed only: to reset it as well keeps Node 20 from ending. */
function resetSocket(socket: Socket): void {
  socket.on("error", () => {});
  if (
    socket.destroyed || socket.connecting || socket.writableEnded ||
    socket.readableEnded
  ) socket.destroy();
  else socket.resetAndDestroy();
}

/** Stops listening. Does not wait for connections. */
function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    if (!server.listening) return resolve();
    server.close();
    resolve();
  });
}
