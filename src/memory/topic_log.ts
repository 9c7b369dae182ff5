/**
 * Reading a topic in memory without a group.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { aborted } from "../core/clock.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import type { TopicLog, TopicPage } from "../ports/broker.ts";
import type { Bell } from "./bell.ts";
import type { Topic } from "./topic.ts";

/**
 * The log of all topics.
 *
 * @param run Names this life of the broker: places of an earlier one are recognised, and reported as a gap.
 */
export function topicLog(topics: ReadonlyMap<string, Topic>, bell: Bell, run: string): TopicLog {
  function pageAfter(name: string, place: number, limit: number, lostBefore: boolean): TopicPage {
    const topic = topics.get(name);
    const items = topic?.read(place, limit) ?? [];
    const gap = lostBefore || (topic !== undefined && place + 1 < topic.first);
    const entries = items.map(({ message, place }) => ({ ...message, position: position(place) }));
    const next = items.at(-1)?.place ?? Math.max(place, topic ? topic.first - 1 : 0);
    return { entries, next: position(next), gap };
  }

  function position(place: number): string {
    return `${run}-${place}`;
  }

  /** The place a position stands for; `lost` if it comes from an earlier life. */
  function placeOf(name: string, after: string): { place: number; lost: boolean } {
    const topic = topics.get(name);
    if (after === "start") return { place: topic ? topic.first - 1 : 0, lost: false };
    if (after === "now") return { place: topic?.last ?? 0, lost: false };
    const [, life, digits] = /^([0-9a-z]{1,12})-(\d{1,15})$/.exec(after) ?? [];
    if (life !== undefined && life !== run) return { place: 0, lost: true };
    if (life !== undefined && Number(digits) <= (topic?.last ?? 0)) {
      return { place: Number(digits), lost: false };
    }
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot read topic "${name}" after ${
        describe(after)
      }: expected "start", "now" or a position of this topic`,
      { details: { topic: name } },
    );
  }

  return {
    async read(name, after, { limit, waitMs, signal }) {
      checkName("topic", name);
      checkRange("limit", limit, 1, 1_000_000, true);
      checkRange("waitMs", waitMs, 0, Number.MAX_SAFE_INTEGER);
      if (signal?.aborted) throw aborted(signal);
      const { place, lost } = placeOf(name, after);
      const page = pageAfter(name, place, limit, lost);
      if (page.entries.length > 0 || page.gap || waitMs <= 0) return page;
      await bell.wait(name, waitMs, signal);
      return pageAfter(name, place, limit, lost);
    },
  };
}
