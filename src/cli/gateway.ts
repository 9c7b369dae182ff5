/**
 * `millstream gateway [app module]`: an application of the user's on HTTP.
 *
 * @module
 */
import { resolve } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { type Millstream, millstream } from "../../mod.ts";
import { gateway } from "../gateway/mod.ts";
import { backends } from "./backends.ts";
import { serve } from "./serve.ts";

/** Options of the gateway. */
export interface GatewayCommand {
  /** Path of a module whose default export is an application, or a function that returns one. */
  readonly module: string | undefined;
  readonly port: number;
  readonly hostname: string;
}

/** Serves the application until it is told to stop. */
export async function runGateway({ module, port, hostname }: GatewayCommand): Promise<void> {
  const { app, description, close } = module ? await load(module) : await bare();
  await app.start();
  const ending = new AbortController();
  const routes = gateway(app, { signal: ending.signal, onError: (error) => console.error(error) });
  const address = await serve({
    app,
    fetch: (request) => routes.fetch(request),
    port,
    hostname,
    ending,
    close,
  });
  console.log(`Millstream gateway on ${address}, with ${description}`);
}

interface Loaded {
  readonly app: Millstream;
  readonly description: string;
  readonly close: () => Promise<void>;
}

/** Without a module: event store and health only, as nothing is declared. */
async function bare(): Promise<Loaded> {
  const { store, broker, description, close } = await backends();
  return { app: millstream({ store, ...(broker ? { broker } : {}) }), description, close };
}

async function load(path: string): Promise<Loaded> {
  const url = pathToFileURL(resolve(process.cwd(), path)).href;
  const { default: exported } = await importModule(path, url);
  const app = typeof exported === "function" ? await (exported as () => unknown)() : exported;
  if (!isApplication(app)) {
    throw new Error(
      `Cannot use ${path}: expected its default export to be an application, as millstream() returns it, or a function that returns one`,
    );
  }
  return { app, description: path, close: () => Promise.resolve() };
}

async function importModule(path: string, url: string): Promise<{ readonly default?: unknown }> {
  try {
    return await import(url);
  } catch (cause) {
    if ((cause as { code?: unknown }).code !== "ERR_UNKNOWN_FILE_EXTENSION") throw cause;
    throw new Error(
      `Cannot read ${path}: Node ${process.versions.node} reads no TypeScript. Use Node 24, Bun or Deno, or compile it`,
      {
        cause,
      },
    );
  }
}

function isApplication(value: unknown): value is Millstream {
  return typeof value === "object" && value !== null && "dispatch" in value && "start" in value &&
    "declared" in value;
}
