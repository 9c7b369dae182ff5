/**
 * Strict JSON: what cannot survive the trip unchanged is refused with its path before any I/O, and what comes in
 * is checked before it is parsed.
 *
 * @module
 */
import { describe, MillstreamError } from "./errors.ts";

/** Bounds of one payload. */
export interface JsonLimits {
  /** Levels of nesting. @default 64 */
  readonly maxDepth?: number;
}

/** Levels of nesting allowed by default. `JSON.parse` takes a million, many consumers die much earlier. */
export const MAX_DEPTH = 64;

/**
 * `JSON.stringify` that refuses what it would change: BigInt, NaN and Infinity, Date, Map, class instances, functions,
 * symbols, `undefined` in arrays, keys named `__proto__`. A property that is `undefined` is left out, and -0 becomes 0:
 * reading them back gives an equal value. `\u0000` and lone surrogates survive as escapes.
 *
 * @throws `UNSERIALIZABLE` with `details.path`, or `PAYLOAD_TOO_DEEP`.
 */
export function stringifyStrict(value: unknown, limits: JsonLimits = {}): string {
  checkStrict(value, limits);
  return JSON.stringify(value);
}

/** Refuses what {@linkcode stringifyStrict} would, and makes no text. */
export function checkStrict(value: unknown, limits: JsonLimits = {}): void {
  const problem = findProblem(value, limits.maxDepth ?? MAX_DEPTH);
  if (problem) throw problemError(problem, limits.maxDepth ?? MAX_DEPTH);
}

interface Problem {
  path: string;
  readonly what: string;
}

const TOO_DEEP = "too deep";

function findProblem(value: unknown, depthLeft: number): Problem | undefined {
  switch (typeof value) {
    case "string":
    case "boolean":
      return undefined;
    case "number":
      return Number.isFinite(value) ? undefined : { path: "", what: String(value) };
    case "object":
      if (value === null) return undefined;
      if (depthLeft <= 0) return { path: "", what: TOO_DEEP };
      return Array.isArray(value) ? problemInArray(value, depthLeft) : problemInObject(value, depthLeft);
    default:
      return { path: "", what: value === undefined ? "undefined" : `a ${typeof value}` };
  }
}

function problemInArray(array: readonly unknown[], depthLeft: number): Problem | undefined {
  for (let index = 0; index < array.length; index++) {
    const problem = findProblem(array[index], depthLeft - 1);
    if (problem) {
      problem.path = `[${index}]${problem.path}`;
      return problem;
    }
  }
  return undefined;
}

function problemInObject(object: object, depthLeft: number): Problem | undefined {
  const prototype: object | null = Object.getPrototypeOf(object);
  // The second test accepts plain objects of another realm.
  if (prototype !== Object.prototype && prototype !== null && Object.getPrototypeOf(prototype) !== null) {
    return {
      path: "",
      what: `a ${(object as { constructor?: { name?: string } }).constructor?.name ?? "class instance"}`,
    };
  }
  if (Object.getOwnPropertySymbols(object).length > 0) return { path: "", what: "a symbol key" };
  for (const key of Object.keys(object)) {
    if (key === "__proto__") return { path: ".__proto__", what: "a key that changes prototypes" };
    const value = (object as Record<string, unknown>)[key];
    if (value === undefined) continue;
    const problem = findProblem(value, depthLeft - 1);
    if (problem) {
      problem.path = `.${key}${problem.path}`;
      return problem;
    }
  }
  return undefined;
}

function problemError(problem: Problem, maxDepth: number): MillstreamError {
  const path = problem.path.replace(/^\./, "") || "(root)";
  if (problem.what === TOO_DEEP) return tooDeep(maxDepth);
  return new MillstreamError(
    "UNSERIALIZABLE",
    `Cannot serialize data at ${describe(path)}: ${problem.what} does not survive JSON`,
    { details: { path } },
  );
}

function tooDeep(maxDepth: number): MillstreamError {
  return new MillstreamError(
    "PAYLOAD_TOO_DEEP",
    `Cannot accept data: nested deeper than ${maxDepth} levels`,
    {
      details: { maxDepth },
    },
  );
}

/** A member of the outermost object: where the text of its value starts and ends. */
export type MemberSpans = Map<string, readonly [start: number, end: number]>;

/**
 * One pass over JSON text before it is parsed: refuses too much depth, `__proto__` and repeated keys, however they are
 * escaped, and notes where the members of the outermost object stand, so that a value can be kept byte for byte.
 * It does not check the grammar; `JSON.parse` does that next.
 *
 * @throws `PAYLOAD_TOO_DEEP`, or `MALFORMED_MESSAGE` with `details.key`.
 */
export function scanJson(text: string, limits: JsonLimits = {}): MemberSpans {
  const members: MemberSpans = new Map();
  scan(text, limits, members);
  return members;
}

/** As {@linkcode scanJson}, for those who only want to know that it may be parsed. */
export function checkJson(text: string, limits: JsonLimits): void {
  scan(text, limits, undefined);
}

/** The keys of an object so far. A list until there are many: most objects are small, and every message passes here. */
type Keys = string[] | Set<string>;
const MANY_KEYS = 16;

function scan(text: string, limits: JsonLimits, members: MemberSpans | undefined): void {
  const maxDepth = limits.maxDepth ?? MAX_DEPTH;
  const keys: Array<Keys | undefined> = []; // one per open bracket; undefined = array
  let name: string | undefined;
  let start = 0;

  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x7b: // {
      case 0x5b: // [
        keys.push(text[at] === "{" ? [] : undefined);
        if (keys.length > maxDepth) throw tooDeep(maxDepth);
        break;
      case 0x7d: // }
      case 0x5d: // ]
        if (keys.length === 1) endMember(at);
        keys.pop();
        break;
      case 0x2c: // ,
        if (keys.length === 1) endMember(at);
        break;
      case 0x22: { // "
        const end = endOfString(text, at);
        const colon = skipSpace(text, end + 1);
        if (text.charCodeAt(colon) === 0x3a) {
          const key = readKey(text.slice(at + 1, end));
          noteKey(keys, key);
          if (keys.length === 1) {
            name = key;
            start = colon + 1;
          }
          at = colon;
        } else {
          at = end;
        }
      }
    }
  }

  function endMember(at: number): void {
    if (name !== undefined) members?.set(name, [start, at]);
    name = undefined;
  }
}

/**
 * The texts of the elements of a JSON array, as they stand in `text`. Whoever parses each of them has checked all of
 * the grammar: between them only commas and space were passed over. Any depth is fine; nothing is parsed here.
 *
 * @throws `MALFORMED_MESSAGE` if the text is not an array, `PAYLOAD_TOO_LARGE` if it has more than `maxElements`.
 */
export function splitArray(text: string, maxElements: number): string[] {
  const first = skipSpace(text, 0);
  const elements: string[] = [];
  let start = first + 1;
  let depth = 0;
  let end = -1;
  for (let at = first; at < text.length && end < 0; at++) {
    switch (text.charCodeAt(at)) {
      case 0x7b: // {
      case 0x5b: // [
        depth++;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        if (--depth === 0) end = at;
        break;
      case 0x2c: // ,
        if (depth === 1) start = take(at);
        break;
      case 0x22: // "
        at = endOfString(text, at);
    }
  }
  if (text[first] !== "[" || text[end] !== "]" || skipSpace(text, end + 1) !== text.length) {
    throw notAnArray();
  }
  if (elements.length > 0 || skipSpace(text, start) !== end) take(end);
  return elements;

  function take(at: number): number {
    if (elements.length === maxElements) throw tooMany(maxElements);
    elements.push(text.slice(start, at));
    return at + 1;
  }
}

function notAnArray(): MillstreamError {
  return new MillstreamError("MALFORMED_MESSAGE", "Cannot accept JSON: expected one array");
}

function tooMany(maxElements: number): MillstreamError {
  return new MillstreamError(
    "PAYLOAD_TOO_LARGE",
    `Cannot accept JSON: the array has more than ${maxElements} elements`,
    {
      details: { maxElements },
    },
  );
}

/** Notes a key of the innermost object. */
function noteKey(keys: Array<Keys | undefined>, key: string): void {
  const seen = keys[keys.length - 1];
  if (!seen) return; // not JSON, which the parser finds out
  const isSet = seen instanceof Set;
  if (key !== "__proto__" && !(isSet ? seen.has(key) : seen.includes(key))) {
    if (isSet) seen.add(key);
    else if (seen.push(key) > MANY_KEYS) keys[keys.length - 1] = new Set(seen);
    return;
  }
  const why = key === "__proto__" ? "would change prototypes" : "stands twice in one object";
  throw new MillstreamError("MALFORMED_MESSAGE", `Cannot accept JSON: key ${describe(key)} ${why}`, {
    details: { key },
  });
}

/** The key that stands between quotes; as it stands there where it is not valid, which `JSON.parse` reports. */
function readKey(quoted: string): string {
  if (!quoted.includes("\\")) return quoted;
  try {
    return JSON.parse(`"${quoted}"`) as string;
  } catch {
    return quoted;
  }
}

function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === 0x5c) backslashes++;
    if (backslashes % 2 === 0) return end;
  }
  return text.length;
}

function skipSpace(text: string, at: number): number {
  while (at < text.length && " \t\n\r".includes(text[at]!)) at++;
  return at;
}
