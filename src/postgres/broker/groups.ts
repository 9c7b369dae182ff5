/**
 * How the groups stand.
 *
 * @module
 */
import { checkName } from "../../core/names.ts";
import type { GroupLag, GroupStatus } from "../../ports/broker.ts";
import type { SqlRow } from "../../ports/sql.ts";
import { optional } from "../context.ts";
import type { BrokerContext } from "./context.ts";

/** All groups of all topics, or of one, sorted by topic and group. */
export async function groups(
  { session, schema }: BrokerContext,
  { topic }: { readonly topic?: string } = {},
): Promise<readonly GroupStatus[]> {
  if (topic !== undefined) checkName("topic", topic);
  const rows = await session.query<GroupRow>(groupsSql(schema), [topic ?? null]);
  return rows.map(({ topic, grp, ready, inFlight, delayed, dead, oldestMs }) => ({
    topic,
    group: grp,
    ready,
    inFlight,
    delayed,
    dead,
    ...optional("oldestMs", oldestMs === null ? null : Math.max(0, oldestMs)),
  }));
}

/** How the group with id `groupId` stands. */
export async function groupLag({ session, schema }: BrokerContext, groupId: number): Promise<GroupLag> {
  const [row] = await session.query<GroupLag & SqlRow>(lagSql(schema), [groupId]);
  const { ready = 0, inFlight = 0, delayed = 0, dead = 0 } = row ?? {};
  return { ready, inFlight, delayed, dead };
}

/** A delivery that waits for an earlier one of its key, or whose lease ran out, counts as ready. */
const COUNTS =
  `count(*) filter (where not d.waiting or d.ready_at = 'infinity' or d.ready_at <= clock_timestamp())::int as ready,
  count(*) filter (where d.waiting and d.owner is not null and d.ready_at > clock_timestamp())::int as "inFlight",
  count(*) filter (where d.waiting and d.owner is null and d.ready_at > clock_timestamp() and d.ready_at < 'infinity')::int
    as delayed`;

/** `$1` group. */
const lagSql = (schema: string): string =>
  `select ${COUNTS}, (select count(*)::int from ${schema}.dead_letters x where x.group_id = $1::int) as dead
from ${schema}.deliveries d where d.group_id = $1::int`;

/** `$1` topic, or null for all. */
const groupsSql = (schema: string): string =>
  `select t.name as topic, g.name as grp, c.ready, c."inFlight", c.delayed, x.dead, o."oldestMs"
from ${schema}.groups g join ${schema}.topics t on t.id = g.topic_id
cross join lateral (select min(d.pos) as oldest, ${COUNTS} from ${schema}.deliveries d where d.group_id = g.id) c
cross join lateral (select count(*)::int as dead from ${schema}.dead_letters x where x.group_id = g.id) x
left join lateral (
  select (extract(epoch from clock_timestamp() - m.published_at) * 1000)::float8 as "oldestMs"
  from ${schema}.messages m where m.pos = c.oldest
) o on true
where $1::text is null or t.name = $1 order by t.name, g.name`;

interface GroupRow extends GroupLag, SqlRow {
  readonly topic: string;
  readonly grp: string;
  readonly oldestMs: number | null;
}
