/**
 * BullMQ, the most used queue on Redis for Node: what its users would compare with.
 *
 * @module
 */
import { peer } from "./peers.ts";

/** The part of BullMQ that is measured. */
interface BullMq {
  readonly Queue: new (name: string, options: object) => BullQueue;
  readonly Worker: new (
    name: string,
    handler: (job: { data: string }) => Promise<void>,
    options: object,
  ) => BullWorker;
}

interface BullQueue {
  add(name: string, data: string): Promise<unknown>;
  addBulk(jobs: ReadonlyArray<{ readonly name: string; readonly data: string }>): Promise<unknown>;
  getJobCounts(...states: string[]): Promise<Readonly<Record<string, number>>>;
  waitUntilReady(): Promise<unknown>;
  close(): Promise<void>;
}

interface BullWorker {
  on(event: "completed", listener: () => void): void;
  waitUntilReady(): Promise<unknown>;
  close(): Promise<void>;
}

/** A queue of its own. Jobs are removed when they are done, as streams forget what is acknowledged. */
export async function openQueue(url: string, prefix: string): Promise<BullQueue> {
  const { Queue } = await peer<BullMq>("bullmq");
  const queue = new Queue("bench", {
    connection: connection(url),
    prefix,
    defaultJobOptions: { removeOnComplete: true },
  });
  await queue.waitUntilReady();
  return queue;
}

/** A worker for that queue. `completed` is called for each job that the server knows to be done. */
export async function openWorker(
  url: string,
  prefix: string,
  options: { readonly concurrency: number; handle(body: string): void; completed(): void },
): Promise<BullWorker> {
  const { Worker } = await peer<BullMq>("bullmq");
  const handler = ({ data }: { data: string }): Promise<void> => {
    options.handle(data);
    return Promise.resolve();
  };
  const worker = new Worker("bench", handler, {
    connection: connection(url),
    prefix,
    concurrency: options.concurrency,
  });
  worker.on("completed", () => options.completed());
  await worker.waitUntilReady();
  return worker;
}

function connection(url: string): object {
  const { hostname, port, username, password } = new URL(url);
  const auth = password === "" ? {} : { username, password };
  return { host: hostname, port: Number(port || 6379), maxRetriesPerRequest: null, ...auth };
}
