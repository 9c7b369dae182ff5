/**
 * SHA-1, for ids derived from names and for nothing that needs a secure hash.
 *
 * @module
 */

/**
 * The SHA-1 of `bytes` (RFC 3174). The platform's own runs on another thread: for some dozens of bytes the way there
 * and back takes longer than the work, and whatever waits for it waits outside of promise jobs, where no virtual clock
 * sees it.
 */
export function sha1(bytes: Uint8Array): Uint8Array {
  const blocks = (bytes.length + 72) >>> 6;
  const words = new Uint32Array(blocks * 16);
  bytes.forEach((byte, at) => words[at >> 2]! |= byte << (24 - (at & 3) * 8));
  words[bytes.length >> 2]! |= 0x80 << (24 - (bytes.length & 3) * 8);
  words[words.length - 2] = Math.floor(bytes.length / 0x2000_0000);
  words[words.length - 1] = bytes.length << 3;

  const hash = new Uint32Array([0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0]);
  const schedule = new Uint32Array(80);
  for (let block = 0; block < words.length; block += 16) {
    schedule.set(words.subarray(block, block + 16));
    for (let t = 16; t < 80; t++) {
      const mixed = schedule[t - 3]! ^ schedule[t - 8]! ^ schedule[t - 14]! ^ schedule[t - 16]!;
      schedule[t] = rotate(mixed, 1);
    }
    let [a, b, c, d, e] = hash as unknown as [number, number, number, number, number];
    for (let t = 0; t < 80; t++) {
      const next = (rotate(a, 5) + choose(t, b, c, d) + e + ROUND[Math.floor(t / 20)]! + schedule[t]!) | 0;
      [a, b, c, d, e] = [next, a, rotate(b, 30), c, d];
    }
    [a, b, c, d, e].forEach((value, at) => hash[at]! += value);
  }
  return Uint8Array.from({ length: 20 }, (_, at) => hash[at >> 2]! >>> (24 - (at & 3) * 8));
}

const ROUND = [0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6];

function choose(t: number, b: number, c: number, d: number): number {
  if (t < 20) return (b & c) | (~b & d);
  return t >= 40 && t < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}
