/**
 * Keeps a folder for one process.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { realpath, rm } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

/**
 * Takes an existing folder. PGlite does not look whether another process has its folder open, and two of them ruin it.
 *
 * The lock is a local socket that listens, since the system closes it however its process dies; a file with a process id
 * would have to be doubted after each crash. Where the folder's file system has no sockets there is no lock.
 *
 * @returns gives it back.
 * @throws if another process has it.
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  const path = await socketPath(folder);
  if (await answers(path)) throw taken(folder);
  await rm(path, { force: true }); // of a process that died
  try {
    const server = await listen(path);
    return () => new Promise((resolve) => server.close(() => resolve()));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EADDRINUSE") throw taken(folder); // it came between
    return () => Promise.resolve();
  }
}

/** Addresses of sockets are short: 103 bytes on macOS. A deep folder has its socket among the temporary files. */
async function socketPath(folder: string): Promise<string> {
  const real = await realpath(folder);
  const hash = createHash("sha256").update(real).digest("hex").slice(0, 24);
  if (process.platform === "win32") return `\\\\.\\pipe\\millstream-${hash}`;
  const inside = join(real, "lock");
  return new TextEncoder().encode(inside).length <= 100 ? inside : join(tmpdir(), `millstream-${hash}`);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    // Any other error, such as a reset, comes from somebody who is there.
    socket.once("error", ({ code = "" }: NodeJS.ErrnoException) => resolve(!NOBODY.includes(code)));
  });
}

const NOBODY = ["ENOENT", "ECONNREFUSED", "ENOTSOCK"];

function listen(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.end());
    server.once("error", reject);
    server.listen(path, () => resolve(server.unref()));
  });
}

function taken(folder: string): Error {
  return new Error(
    `Cannot open ${folder}: another process uses it; end that one, or name another with DATA_DIR`,
  );
}
