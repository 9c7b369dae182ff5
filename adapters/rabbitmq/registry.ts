/**
 * The list of groups. A client of RabbitMQ cannot ask for the server's queues, so each new group leaves a note in a
 * queue that is only ever looked through.
 *
 * @module
 */
import type { Browse } from "./browse.ts";
import type { AmqpMessage } from "./driver.ts";

/** A group of a topic. */
export interface Group {
  readonly topic: string;
  readonly group: string;
}

/** The note that a group leaves. */
export function noteOf({ topic, group }: Group): string {
  return JSON.stringify({ topic, group });
}

/** Reads the notes, sorted by topic and group, and clears away those that are there twice. */
export async function readGroups(
  browse: Browse,
  registry: string,
  topic?: string,
): Promise<readonly Group[]> {
  const groups = new Map<string, Group>();
  await browse(registry, (note) => {
    const read = parse(note);
    const name = read && `${read.topic}:${read.group}`;
    if (!name || groups.has(name)) return "drop";
    groups.set(name, read);
    return "keep";
  });
  const names = [...groups.keys()].sort((a, b) => compare(groups.get(a)!, groups.get(b)!));
  return names.map((name) => groups.get(name)!).filter((one) => topic === undefined || one.topic === topic);
}

function compare(a: Group, b: Group): number {
  if (a.topic !== b.topic) return a.topic < b.topic ? -1 : 1;
  return a.group < b.group ? -1 : 1;
}

function parse({ content }: AmqpMessage): Group | undefined {
  try {
    const { topic, group } = JSON.parse(new TextDecoder().decode(content)) as Partial<Group>;
    return typeof topic === "string" && typeof group === "string" ? { topic, group } : undefined;
  } catch {
    return undefined;
  }
}
