/**
 * An application's HTTP server, from the first request to a graceful end.
 *
 * @module
 */
import process from "node:process";
import { serve as listen } from "@hono/node-server";
import type { Millstream } from "../../mod.ts";

/** What to serve. */
export interface Serving {
  readonly app: Millstream;
  readonly fetch: (request: Request) => Response | Promise<Response>;
  readonly port: number;
  readonly hostname: string;
  /** Abort it to end long answers, such as event streams. */
  readonly ending: AbortController;
  /** Closes what is left after the application. */
  readonly close: () => Promise<void>;
}

const GRACE_MS = 10_000;

/**
 * Serves until SIGTERM or SIGINT: takes no new requests, ends streams, finishes what was started within ten seconds,
 * closes the application, and exits with 0. A second signal exits at once.
 *
 * @returns the address, once it listens.
 */
export async function serve(serving: Serving): Promise<string> {
  const server = await new Promise<ReturnType<typeof listen>>((resolve, reject) => {
    const opened = listen(
      { fetch: serving.fetch, port: serving.port, hostname: serving.hostname },
      () => resolve(opened),
    );
    opened.once("error", (cause: NodeJS.ErrnoException) => reject(cannotListen(serving, cause)));
  });
  let ending = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (ending) process.exit(1);
      ending = true;
      void end(serving, server).then(() => process.exit(0), (error) => {
        console.error(error);
        process.exit(1);
      });
    });
  }
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : serving.port;
  return `http://${serving.hostname === "0.0.0.0" ? "127.0.0.1" : serving.hostname}:${port}`;
}

async function end({ app, ending, close }: Serving, server: ReturnType<typeof listen>): Promise<void> {
  ending.abort();
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  if ("closeIdleConnections" in server) server.closeIdleConnections();
  const force = setTimeout(() => "closeAllConnections" in server && server.closeAllConnections(), GRACE_MS);
  await closed;
  clearTimeout(force);
  await app.close({ graceMs: GRACE_MS });
  await close();
}

function cannotListen({ hostname, port }: Serving, cause: NodeJS.ErrnoException): Error {
  const why = cause.code === "EADDRINUSE"
    ? "something else listens there, choose another --port"
    : cause.message;
  return new Error(`Cannot listen on ${hostname}:${port}: ${why}`, { cause });
}
