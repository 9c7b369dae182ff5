/**
 * Webhooks of GitHub: a topic that takes any event, folded into what happens in each repository.
 *
 * @module
 */
import * as v from "valibot";
import {
  type HandlerContext,
  type Message,
  query,
  type QueryDefinition,
  type Sql,
  topic,
  type TopicDefinition,
} from "../../../mod.ts";

export const GitHub: TopicDefinition = topic("github");

/** The consumer group that folds them. */
export const GITHUB_GROUP = "github-activity";

/** How much happened in a repository. */
export interface RepositoryActivity {
  readonly repository: string;
  readonly events: Readonly<Record<string, number>>;
  readonly total: number;
}

export const GitHubActivity: QueryDefinition<
  { readonly repository?: string | undefined },
  readonly RepositoryActivity[],
  "GitHubActivity"
> = query(
  "GitHubActivity",
  v.object({ repository: v.optional(v.string()) }),
);

/** Counts one webhook. The count commits with the note that it was handled: once, however often it comes. */
export async function countWebhook(message: Message, { sql }: HandlerContext): Promise<void> {
  const repository = repositoryOf(message.data);
  await sql`
    insert into demo.github_activity ${sql({ repository, event: message.type, count: 1 })}
    on conflict (repository, event) do update set count = github_activity.count + 1`;
}

/** The repository a webhook is about; its organisation or sender where it is about none. */
export function repositoryOf(data: unknown): string {
  const { repository, organization, sender } = data as Record<
    string,
    { full_name?: string; login?: string } | undefined
  >;
  return repository?.full_name ?? organization?.login ?? sender?.login ?? "(none)";
}

/** Activity of one repository or of all. */
export async function readActivity(sql: Sql, repository?: string): Promise<readonly RepositoryActivity[]> {
  const rows = await sql<{ repository: string; event: string; count: number }>`
    select repository, event, count from demo.github_activity
    where ${repository ?? null}::text is null or repository = ${
    repository ?? null
  } order by repository, event`;
  const byRepository = new Map<string, Record<string, number>>();
  for (const row of rows) {
    byRepository.set(row.repository, { ...byRepository.get(row.repository), [row.event]: row.count });
  }
  return Array.from(byRepository, ([name, events]) => ({
    repository: name,
    events,
    total: Object.values(events).reduce((sum, count) => sum + count, 0),
  }));
}
