/**
 * A Redis Sentinel: a real one, alone, with a quorum of one.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, type PrivateServer, redisBinary } from "../../support/servers.ts";
import { eventually } from "../../support/wait.ts";
import { command } from "./redis_admin.ts";

/** A Sentinel that watches over one primary. */
export interface TestSentinel extends AsyncDisposable {
  readonly url: string;
}

/** Starts a Sentinel that calls `primary` by `name`, and waits until it knows one replica. */
export async function startSentinel(name: string, primary: PrivateServer): Promise<TestSentinel> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "sentinel-"));
  const config = join(folder, "sentinel.conf");
  writeFileSync(
    config,
    [
      `port ${port}`,
      "bind 127.0.0.1",
      `dir ${folder}`,
      `sentinel monitor ${name} 127.0.0.1 ${primary.port} 1`,
      `sentinel down-after-milliseconds ${name} 1000`,
      `sentinel failover-timeout ${name} 5000`,
      "",
    ].join("\n"),
  );
  const child = spawn(redisBinary() ?? "redis-server", [config, "--sentinel"], { stdio: "ignore" });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const url = `redis://127.0.0.1:${port}`;
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    await eventually(async () => {
      const facts = await command(url, "sentinel", "replicas", name).catch(() => []) as readonly unknown[];
      return facts.length === 1;
    }, { withinMs: 30_000, everyMs: 100 });
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, [Symbol.asyncDispose]: stop };
}
