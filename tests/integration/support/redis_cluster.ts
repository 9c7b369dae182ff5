/**
 * A Redis Cluster of real servers: three primaries, and one replica of the first.
 *
 * @module
 */
import { type PrivateServer, startRedis } from "../../support/servers.ts";
import { eventually } from "../../support/wait.ts";
import { command } from "./redis_admin.ts";

/** A cluster that belongs to one test file. */
export interface TestCluster extends AsyncDisposable {
  readonly urls: readonly string[];
  readonly primaries: readonly PrivateServer[];
  /** Of the first primary. */
  readonly replica: PrivateServer;
}

const SLOTS = 16_384;

/** Starts a cluster and waits until it serves. */
export async function startCluster(): Promise<TestCluster> {
  const servers = await Promise.all(
    [0, 1, 2, 3].map(() =>
      startRedis({ args: ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"] })
    ),
  );
  const [first, second, third, replica] = servers as [
    PrivateServer,
    PrivateServer,
    PrivateServer,
    PrivateServer,
  ];
  const primaries = [first, second, third];
  const stop = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.stop()));
  };
  try {
    for (const [index, { url }] of primaries.entries()) {
      const [from, to] = [index, index + 1].map((n) => Math.floor(n * SLOTS / 3)) as [number, number];
      await command(url, "cluster", "set-config-epoch", index + 1);
      await command(url, "cluster", "addslotsrange", from, to - 1);
    }
    for (const { port } of servers.slice(1)) await command(first.url, "cluster", "meet", "127.0.0.1", port);
    for (const server of servers) {
      await eventually(async () => (await info(server)).includes("cluster_known_nodes:4"));
    }
    const id = String(await command(first.url, "cluster", "myid"));
    await eventually(async () => {
      return await command(replica.url, "cluster", "replicate", id).then(() => true, () => false);
    });
    for (const server of servers) {
      await eventually(async () => /cluster_state:ok/.test(await info(server)), { withinMs: 30_000 });
    }
    await eventually(
      async () => String(await command(replica.url, "info", "replication")).includes("master_link_status:up"),
      {
        withinMs: 30_000,
      },
    );
  } catch (error) {
    await stop();
    throw error;
  }
  return { urls: primaries.map(({ url }) => url), primaries, replica, [Symbol.asyncDispose]: stop };
}

async function info({ url }: PrivateServer): Promise<string> {
  return String(await command(url, "cluster", "info"));
}
