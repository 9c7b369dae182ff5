/**
 * Message ids: UUIDv7 for new messages, UUIDv5 where the same input must give the same id again. Both RFC 9562.
 *
 * @module
 */
import { sha1 } from "./sha1.ts";

/** A number in [0, 1), like `Math.random`. Passed in wherever chance plays a part. */
export type Random = () => number;

/** Makes a new id at each call. */
export type IdGenerator = () => string;

/**
 * Creates a generator of UUIDv7: 48 bits of milliseconds, a 12 bit counter that keeps the ids of one generator
 * increasing within a millisecond (RFC 9562 section 6.2, method 1), and 62 random bits. Ids are for identity; never
 * sort events by them.
 *
 * @param now Wall clock in milliseconds.
 * @param random Fills the given array with random numbers.
 */
export function uuidv7Generator(
  now: () => number = Date.now,
  random: (target: Uint32Array<ArrayBuffer>) => unknown = (target) => crypto.getRandomValues(target),
): IdGenerator {
  // Chance is drawn for many ids at once: asking for it costs more than all the rest.
  const words = new Uint32Array(3 * IDS_PER_DRAW);
  let next = words.length;
  let lastMs = 0;
  let lastTime = "";
  let counter = 0;
  return () => {
    if (next >= words.length) {
      random(words);
      next = 0;
    }
    const [first, second, third] = [words[next++]!, words[next++]!, words[next++]!];
    const ms = Math.floor(now()); // some clocks know fractions, hexadecimal digits do not
    if (ms > lastMs) {
      lastMs = ms;
      lastTime = "";
      counter = third & 0x3ff; // room for 3,072 more ids in this millisecond
    } else if (++counter > 0xfff) {
      lastMs++;
      lastTime = "";
      counter = 0;
    }
    lastTime ||= timeOf(lastMs);
    const variant = ((first >>> 16) & 0x3fff) | 0x8000;
    return lastTime + hex16(0x7000 | counter) + "-" + hex16(variant) + "-" + hex16(first & 0xffff) +
      hex16(second >>> 16) + hex16(second & 0xffff);
  };
}

/** Ids for which random numbers are drawn at once. */
const IDS_PER_DRAW = 128;

/** The 48 bits of time, with the dashes after them. */
function timeOf(ms: number): string {
  const digits = ms.toString(16).padStart(12, "0");
  return `${digits.slice(0, 8)}-${digits.slice(8)}-`;
}

const BYTES: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

function hex16(value: number): string {
  return BYTES[value >>> 8]! + BYTES[value & 0xff]!;
}

/** An id that is always the same for the same `name`: UUIDv5 (SHA-1) in a namespace of Millstream's own. */
// deno-lint-ignore require-await -- nobody has to know that it needs no waiting
export async function uuidv5(name: string): Promise<string> {
  const hash = sha1(new TextEncoder().encode(`millstream\u0000${name}`)).slice(0, 16);
  hash[6] = (hash[6]! & 0x0f) | 0x50;
  hash[8] = (hash[8]! & 0x3f) | 0x80;
  const text = Array.from(hash, (byte) => BYTES[byte]).join("");
  return `${text.slice(0, 8)}-${text.slice(8, 12)}-${text.slice(12, 16)}-${text.slice(16, 20)}-${
    text.slice(20)
  }`;
}
