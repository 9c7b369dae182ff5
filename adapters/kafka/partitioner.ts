/**
 * Which partition a key belongs to: as the Java client decides, so that all clients of a topic agree.
 *
 * @module
 */

/** The partition of a key: murmur2 of its UTF-8 bytes, as `org.apache.kafka.clients.producer.internals` has it. */
export function partitionOf(key: string, partitions: number): number {
  return (murmur2(new TextEncoder().encode(key)) & 0x7fff_ffff) % partitions;
}

/** MurmurHash2, 32 bits, with Kafka's seed. Source: org.apache.kafka.common.utils.Utils.murmur2. */
function murmur2(data: Uint8Array): number {
  const m = 0x5bd1_e995;
  const whole = data.length & ~3;
  let hash = 0x9747_b28c ^ data.length;
  for (let i = 0; i < whole; i += 4) {
    let k = data[i]! | data[i + 1]! << 8 | data[i + 2]! << 16 | data[i + 3]! << 24;
    k = Math.imul(k, m);
    k ^= k >>> 24;
    hash = Math.imul(hash, m) ^ Math.imul(k, m);
  }
  const rest = data.length - whole;
  if (rest >= 3) hash ^= data[whole + 2]! << 16;
  if (rest >= 2) hash ^= data[whole + 1]! << 8;
  if (rest >= 1) hash = Math.imul(hash ^ data[whole]!, m);
  hash = Math.imul(hash ^ hash >>> 13, m);
  return hash ^ hash >>> 15;
}
