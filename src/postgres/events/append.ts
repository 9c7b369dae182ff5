/**
 * Appends as SQL: the statement for the appends of one or many callers, and what its reply says to each of them.
 *
 * @module
 */
import { describe, MillstreamError } from "../../core/errors.ts";
import type { AppendResult, EventToAppend, StreamAppend } from "../../ports/event_store.ts";
import type { SqlRow, SqlValue } from "../../ports/sql.ts";
import { columns } from "../context.ts";

/** What one caller appends: all of it, or nothing. */
export interface Unit {
  readonly appends: readonly StreamAppend[];
  readonly events: number;
  readonly characters: number;
}

/** A statement with its values. */
export interface Statement {
  readonly text: string;
  readonly values: readonly SqlValue[];
}

/** How to append. See the parameters of the function `append_many`. */
export interface AppendMode {
  readonly wait: boolean;
  readonly careful: boolean;
}

/** The row that comes back. */
export interface AppendRow extends SqlRow {
  readonly reply: readonly string[];
}

/** What became of a unit. */
export type Outcome = readonly AppendResult[] | MillstreamError | "busy";

/** Counts what a caller appends. */
export function unitOf(appends: readonly StreamAppend[]): Unit {
  let events = 0;
  let characters = 0;
  for (const append of appends) {
    events += append.events.length;
    for (const { body } of append.events) characters += body.length;
  }
  return { appends, events, characters };
}

/** The statement that appends these units, in this order. */
export function appendStatement(schema: string, units: readonly Unit[], mode: AppendMode): Statement {
  const [append] = units[0]?.appends ?? [];
  const single = units.length === 1 && units[0]?.appends.length === 1;
  if (single && append && mode.wait && !mode.careful && isExact(append)) return oneStatement(schema, append);
  return {
    text: `select ${schema}.append_many($1::bool, $2::bool, false, ${placeholders(3, PARAMETERS)}) as reply`,
    values: [mode.wait, mode.careful, ...manyValues(units)],
  };
}

/** Whether {@linkcode eachStatement} is for these units: one stream each, none twice, at an exact version. */
export function isForEach(units: readonly Unit[]): boolean {
  const streams = new Set<string>();
  for (const { appends: [append, second] } of units) {
    if (!append || second || !isExact(append)) return false;
    streams.add(append.stream);
  }
  return streams.size === units.length;
}

/**
 * The statement for units that are sorted by {@linkcode streamOf}. It answers `"busy"` to whoever does not fit.
 * Calls the function `append_each`.
 */
export function eachStatement(schema: string, units: readonly Unit[]): Statement {
  const appends = units.map(({ appends }) => appends[0]!);
  const owned = appends.flatMap(({ events }, at) =>
    events.map((event, index) => ({ event, owner: at + 1, nth: index + 1 }))
  );
  return {
    text: `select ${schema}.append_each($1::text[], ${placeholders(2, Array<string>(4).fill("int[]"))}, ${
      placeholders(6, Array<string>(6).fill("text[]"))
    }) as reply`,
    values: [
      ...columns(
        appends,
        ({ stream }) => stream,
        ({ expected }) => expectedNumber(expected),
        ({ events }) => events.length,
      ),
      ...columns(owned, ({ owner }) => owner, ({ nth }) => nth),
      ...eventValues(owned.map(({ event }) => event)),
    ],
  };
}

/** The stream of a unit that has one. */
export function streamOf({ appends }: Unit): string {
  return appends[0]?.stream ?? "";
}

/** What the reply to {@linkcode appendStatement} or {@linkcode eachStatement} says to each unit. */
export function outcomes(units: readonly Unit[], [row]: readonly AppendRow[]): readonly Outcome[] {
  const reply = row?.reply ?? [];
  const count = reply.length / 3;
  let next = 0;
  return units.map(({ appends }) => {
    const from = next;
    next += appends.length;
    let worst: Outcome | undefined;
    const results = appends.map(({ stream }, index): AppendResult => {
      const at = from + index;
      const version = Number(reply[count + at]);
      worst ??= refusal(appends[index]!, reply[at], version);
      return { stream, version, position: BigInt(reply[2 * count + at] ?? 0) };
    });
    return worst ?? results;
  });
}

/** The types of `p_streams` and the parameters after it. */
export const PARAMETERS: readonly string[] = [
  "text[]",
  ...Array<string>(6).fill("int[]"),
  ...Array<string>(7).fill("text[]"),
];

/** `$3::text[], $4::int[], ...` */
export function placeholders(first: number, types: readonly string[]): string {
  return types.map((type, index) => `$${first + index}::${type}`).join(", ");
}

/** The values of {@linkcode PARAMETERS}. */
export function manyValues(units: readonly Unit[]): SqlValue[] {
  const slots = new Map<string, number>();
  const appends = units.flatMap((unit, at) => unit.appends.map((append) => ({ ...append, unit: at + 1 })));
  const owned = appends.flatMap(({ stream, events }, at) => {
    if (!slots.has(stream)) slots.set(stream, slots.size + 1);
    return events.map((event, index) => ({ event, owner: at + 1, nth: index + 1 }));
  });
  const events = owned.map(({ event }) => event);
  return [
    [...slots.keys()],
    ...columns(
      appends,
      ({ unit }) => unit,
      ({ stream }) => slots.get(stream),
      ({ expected }) => expectedNumber(expected),
      ({ events }) => events.length,
    ),
    ...columns(owned, ({ owner }) => owner, ({ nth }) => nth),
    ...eventValues(events),
    optionalColumn(events, ({ tags }) => tags?.length ? tagsLiteral(tags) : undefined),
  ];
}

/** Calls the function `append_one`. */
function oneStatement(schema: string, { stream, expected, events }: StreamAppend): Statement {
  return {
    text: `select ${schema}.append_one($1::text, $2::int, ${
      placeholders(3, Array<string>(6).fill("text[]"))
    }) as reply`,
    values: [stream, expectedNumber(expected), ...eventValues(events)],
  };
}

function isExact({ expected, events }: StreamAppend): boolean {
  return expected !== "any" && expected !== "exists" && !events.some(({ tags }) => tags?.length);
}

function eventValues(events: readonly EventToAppend[]): SqlValue[] {
  return [
    events.map(({ id }) => id),
    events.map(({ type }) => type),
    optionalColumn(events, ({ key }) => key),
    optionalColumn(events, ({ correlationId }) => correlationId),
    optionalColumn(events, ({ topic }) => topic),
    events.map(({ body }) => body),
  ];
}

/** Null where nobody has a value: the server then reads no array of nulls. */
function optionalColumn(
  events: readonly EventToAppend[],
  field: (event: EventToAppend) => string | undefined,
): SqlValue {
  if (events.every((event) => field(event) === undefined)) return null;
  return events.map((event) => field(event) ?? null);
}

function tagsLiteral(tags: readonly string[]): string {
  return `{${tags.map((tag) => `"${tag.replace(/["\\]/g, "\\$&")}"`).join(",")}}`;
}

function expectedNumber(expected: StreamAppend["expected"]): number {
  if (typeof expected === "number") return expected;
  return { any: -1, exists: -2, none: 0 }[expected];
}

/** What an outcome of `append_many` other than success means. */
function refusal(append: StreamAppend, outcome: string | undefined, version: number): Outcome | undefined {
  switch (outcome) {
    case "0":
    case "1":
    case "6": // another stream of the unit says why
      return undefined;
    case "2":
      return conflict(append, version);
    case "3":
      return "busy";
    case "4":
      return archived(append.stream);
    case "5":
      return conditionFailed();
    default:
      return new MillstreamError("INTERNAL", `Cannot append: expected an outcome, got ${describe(outcome)}`);
  }
}

function conflict({ stream, expected }: StreamAppend, current: number): MillstreamError {
  const wanted = typeof expected === "number" ? `version ${expected}` : `"${expected}"`;
  return new MillstreamError(
    "CONCURRENCY_CONFLICT",
    `Cannot append to ${describe(stream)}: expected ${wanted}, got version ${current}`,
    { details: { stream, expected, current } },
  );
}

function archived(stream: string): MillstreamError {
  return new MillstreamError(
    "REJECTED",
    `Cannot append to ${describe(stream)}: expected an open stream, got an archived one`,
    { details: { stream, state: "archived" } },
  );
}

function conditionFailed(): MillstreamError {
  return new MillstreamError(
    "CONCURRENCY_CONFLICT",
    "Cannot append: expected no event that matches the condition, but there is one",
    { details: { condition: "failIfMatches" } },
  );
}
