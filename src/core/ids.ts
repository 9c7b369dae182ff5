/**
 * Message ids: UUIDv7 for new messages, UUIDv5 where the same input must give the same id again. Both RFC 9562.
 *
 * @module
 */

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
  const words = new Uint32Array(3);
  let lastMs = 0;
  let counter = 0;
  return () => {
    random(words);
    const ms = Math.floor(now()); // some clocks know fractions, hexadecimal digits do not
    if (ms > lastMs) {
      lastMs = ms;
      counter = words[2]! & 0x3ff; // room for 3,072 more ids in this millisecond
    } else if (++counter > 0xfff) {
      lastMs++;
      counter = 0;
    }
    const time = lastMs.toString(16).padStart(12, "0");
    const high = ((words[0]! & 0x3fff_ffff) | 0x8000_0000) >>> 0; // variant 10
    return `${time.slice(0, 8)}-${time.slice(8)}-7${hex(counter, 3)}-${hex(high, 8).slice(0, 4)}-` +
      hex(high, 8).slice(4) + hex(words[1]!, 8);
  };
}

/** An id that is always the same for the same `name`: UUIDv5 (SHA-1) in a namespace of Millstream's own. */
export async function uuidv5(name: string): Promise<string> {
  const bytes = new TextEncoder().encode(`millstream\u0000${name}`);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-1", bytes)).slice(0, 16);
  hash[6] = (hash[6]! & 0x0f) | 0x50;
  hash[8] = (hash[8]! & 0x3f) | 0x80;
  const text = Array.from(hash, (byte) => hex(byte, 2)).join("");
  return `${text.slice(0, 8)}-${text.slice(8, 12)}-${text.slice(12, 16)}-${text.slice(16, 20)}-${
    text.slice(20)
  }`;
}

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, "0");
}
