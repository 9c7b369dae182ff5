/**
 * Sagas of four steps, from their start to their end, against the same four steps as a DBOS Transact workflow: steps that
 * do nothing, so that what is measured is what makes them durable. And how fast what a dead process left behind is
 * finished.
 *
 * @module
 */
import postgresJs from "postgres";
import * as v from "valibot";
import { type Millstream, millstream, type Saga, saga, type SagaInstance } from "../mod.ts";
import { postgres } from "../src/postgres/mod.ts";
import { type Measured, type Prepared, timed, verify } from "./harness.ts";
import { peer } from "./peers.ts";

const STEPS = ["reserve-inventory", "process-payment", "create-shipment", "confirm-order"];
const CONCURRENCY = 32;

/** What is used of `@dbos-inc/dbos-sdk`. */
interface Dbos {
  setConfig(config: Record<string, unknown>): void;
  launch(): Promise<void>;
  shutdown(options?: { deregister?: boolean }): Promise<void>;
  registerWorkflow<Args extends unknown[], R>(
    work: (...args: Args) => Promise<R>,
    config: { name: string },
  ): (...args: Args) => Promise<R>;
  runStep<R>(work: () => Promise<R>, config: { name: string }): Promise<R>;
  startWorkflow<Args extends unknown[], R>(
    work: (...args: Args) => Promise<R>,
    params: { workflowID: string },
  ): (...args: Args) => Promise<{ getResult(): Promise<R> }>;
}

const Data = v.object({ orderId: v.string(), done: v.array(v.string()) });

function fourSteps(): Saga<v.InferOutput<typeof Data>> {
  let built = saga("order-fulfilment", Data);
  for (const step of STEPS) {
    built = built.step(step, {
      run: ({ done }) => Promise.resolve({ done: [...done, step] }),
      undo: () => {},
    });
  }
  return built;
}

/** The questions on the server at `url`, in schemas of their own that are dropped on disposal. */
export async function prepareSagas(url: string, scale: number): Promise<Prepared> {
  const schema = `bench_${crypto.randomUUID().slice(0, 8)}`;
  const sql = postgresJs(url, { max: 1, onnotice: () => {} });
  const { DBOS } = await peer<{ DBOS: Dbos }>("@dbos-inc/dbos-sdk");
  DBOS.setConfig({
    name: schema,
    systemDatabaseUrl: url,
    systemDatabaseSchemaName: `${schema}_dbos`,
    systemDatabasePoolSize: 20, // its default
    runAdminServer: false,
    logLevel: "error",
  });
  const workflow = DBOS.registerWorkflow(async (orderId: string) => {
    const done: string[] = [];
    for (const name of STEPS) done.push(await DBOS.runStep(() => Promise.resolve(name), { name }));
    return { orderId, done };
  }, { name: "order-fulfilment" });
  await DBOS.launch();
  const app = millstream({ store: postgres({ url, schema, max: 8 }), sagas: { concurrency: CONCURRENCY } });
  const Fulfilment = fourSteps();
  await app.use(Fulfilment).start();

  const ours = async (id: string): Promise<number> => {
    await app.startSaga(Fulfilment, id, { orderId: id, done: [] });
    const { status, data } = await app.sagas.settled(id);
    verify("status", status, "completed");
    return (data as { done: string[] }).done.length;
  };
  const theirs = async (id: string): Promise<number> => {
    const handle = await DBOS.startWorkflow(workflow, { workflowID: id })(id);
    return (await handle.getResult()).done.length;
  };
  const question = (callers: number, count: number) => ({
    name: `sagas of four steps, ${callers} at a time`,
    unit: "sagas/s",
    contenders: [
      { name: "DBOS Transact: workflow of four steps", run: () => runAll(theirs, callers, count) },
      {
        name: "millstream: saga of four steps",
        run: () => runAll(ours, callers, count * (callers > 1 ? 8 : 3)),
      },
    ],
  });
  const backlog = Math.ceil(10_000 * scale);
  return {
    about: {},
    questions: [
      question(1, Math.ceil(150 * scale)),
      question(CONCURRENCY, Math.ceil(800 * scale)),
      {
        name: `a backlog of ${backlog} sagas after a crash`,
        unit: "sagas/s",
        contenders: [
          { name: "millstream: started and completed", run: () => runAll(ours, CONCURRENCY, backlog) },
          { name: "millstream: resumed", run: () => drain(url, `${schema}_backlog`, backlog) },
        ],
      },
    ],
    async [Symbol.asyncDispose]() {
      await app.close();
      await DBOS.shutdown({ deregister: true });
      await sql.unsafe(`drop schema if exists ${schema}, ${schema}_dbos, ${schema}_backlog cascade`);
      await sql.end();
    },
  };
}

/** Lets each caller run one after another to its end. */
async function runAll(
  run: (id: string) => Promise<number>,
  callers: number,
  count: number,
): Promise<Measured> {
  const prefix = crypto.randomUUID();
  let started = 0;
  return await timed(count, async () => {
    await Promise.all(Array.from({ length: callers }, async () => {
      while (started < count) verify("steps", await run(`${prefix}-${started++}`), STEPS.length);
    }));
  });
}

/** Finishes what a dead process left: each instance was in its first step. */
async function drain(url: string, schema: string, count: number): Promise<Measured> {
  const store = postgres({ url, schema, max: 8 });
  await store.start();
  const now = Date.now();
  for (let from = 0; from < count; from += 1_000) {
    const size = Math.min(1_000, count - from);
    await store.sagas.create(
      Array.from({ length: size }, (_, n) => abandoned(`${from + n}`, now)),
      { owner: "dead", leaseMs: 1 },
    );
  }
  let completed = 0;
  let finished = (): void => {};
  const all = new Promise<void>((resolve) => finished = resolve);
  const app: Millstream = millstream({
    store,
    sagas: { concurrency: CONCURRENCY },
    observer(seen) {
      if (seen.kind === "saga" && seen.status === "completed" && ++completed === count) finished();
    },
  });
  try {
    return await timed(count, async () => {
      await app.use(fourSteps()).start();
      await all;
    });
  } finally {
    verify("unfinished", (await store.sagas.list({ status: "running", limit: 1 })).length, 0);
    await store.sql`drop schema ${store.sql(schema)} cascade`;
    await app.close();
  }
}

function abandoned(id: string, now: number): SagaInstance {
  return {
    id,
    saga: "order-fulfilment",
    version: 1,
    status: "running",
    data: { orderId: id, done: [] },
    steps: [{ name: STEPS[0]!, status: "started", attempt: 1, startedAt: now }],
    correlationId: id,
    dueAt: now,
    startedAt: now,
    updatedAt: now,
  };
}
