/** Projections on real databases, with a ledger that shows each effect. */
import { randomUUID } from "node:crypto";
import * as v from "valibot";
import { systemClock } from "../../src/core/clock.ts";
import { event } from "../../src/core/definition.ts";
import type { Observation } from "../../src/core/observer.ts";
import type { Loop } from "../../src/messaging/loop.ts";
import type { PostgresStore } from "../../src/postgres/mod.ts";
import { type Projection, projection, type ProjectionOptions } from "../../src/sourcing/projection.ts";
import { startProjection } from "../../src/sourcing/projection_runner.ts";

export const Counted = event("counted", v.object({ n: v.number() }));

/** One line per event applied: what a doubled or lost effect would show in. */
export interface LedgerLine extends Record<string, unknown> {
  readonly seq: string;
  readonly position: string;
  readonly stream: string;
  readonly version: number;
  readonly worker: string;
}

/** Makes the ledger's table. It has no key that would hide a second effect. */
export async function createLedger(store: PostgresStore, schema: string): Promise<void> {
  await store.sql`create table ${store.sql(`${schema}.ledger`)}
    (seq bigserial, position bigint, stream text, version int, worker text)`;
}

/** All lines of the ledger, in the order in which they were written. */
export async function readLedger(store: PostgresStore, schema: string): Promise<readonly LedgerLine[]> {
  return await store.sql<LedgerLine>`select * from ${store.sql(`${schema}.ledger`)} order by seq`;
}

/** Writes a line for each event. */
export function ledger(
  schema: string,
  worker: string,
  options: Omit<ProjectionOptions<readonly [typeof Counted]>, "on"> = {},
  before: (numbers: readonly number[]) => unknown = () => {},
): Projection {
  return projection("ledger", { on: [Counted], ...options }, async (events, { sql }) => {
    const rows = events.map(({ position, stream, version }) => ({ position, stream, version, worker }));
    await sql`insert into ${sql(`${schema}.ledger`)} ${sql(rows)}`;
    await before(events.map(({ data }) => data.n));
  });
}

/** Runs a projection as a process of its own would. */
export function run(
  store: PostgresStore,
  projection: Projection,
  observer: (one: Observation) => void = () => {},
): Loop {
  return startProjection({ store, clock: systemClock, observer, owner: randomUUID() }, projection);
}

/** Appends events 1 to `count` of a stream at once, after those it has. Returns the position of the last. */
export async function append(
  store: PostgresStore,
  stream: string,
  numbers: readonly number[],
): Promise<bigint> {
  const [result] = await store.events.append([{
    stream,
    expected: "any",
    events: numbers.map((n) => {
      const id = randomUUID();
      const time = new Date().toISOString();
      const body = JSON.stringify({
        specversion: "1.0",
        id,
        source: "/t",
        type: "counted",
        time,
        data: { n },
      });
      return { id, type: "counted", body };
    }),
  }]);
  return result!.position;
}

/** 1 to `count`. */
export function numbers(count: number): readonly number[] {
  return Array.from({ length: count }, (_, n) => n + 1);
}
