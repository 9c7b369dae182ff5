/** Effects outside of sagas, in a table: once for each key, with the number of calls. */
import type { Store } from "../../src/ports/store.ts";
import type { World } from "../unit/sagas_crash_points.ts";

/** Makes the table. */
export async function createEffects({ sql }: Store, schema: string): Promise<void> {
  await sql`create table ${
    sql(schema)
  }.effects (key text primary key, nth bigserial, calls int not null default 1)`;
}

/** The other systems. */
export function effectsIn({ sql }: Store, schema: string): World {
  return {
    async act(key) {
      await sql`insert into ${sql(schema)}.effects (key) values (${key})
        on conflict (key) do update set calls = effects.calls + 1`;
    },
  };
}

/** The effects of an instance, in the order they took place, and how many calls were repeated. */
export async function effectsOf(
  { sql }: Store,
  schema: string,
  id: string,
): Promise<{ keys: string[]; repeated: number }> {
  const rows = await sql<{ key: string; calls: number }>`select key, calls from ${sql(schema)}.effects
    where key like ${`${id}/%`} order by nth`;
  return { keys: rows.map(({ key }) => key), repeated: rows.reduce((sum, { calls }) => sum + calls - 1, 0) };
}
