/**
 * Scripts on dead letters.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

/**
 * Gives a dead letter back to its group as a first attempt. Returns 1, or 0 if it is not there.
 *
 * KEYS: dead, retry. ARGV: id.
 */
export const REDRIVE: RedisScript = {
  name: "redrive",
  source: `
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
local fields = found[2]
local first, redrives = string.match(fields[2], '^%d+ (%d+) (%d+)$')
local state = string.format('1 %s %.0f', first or '0', (redrives or 0) + 1)
redis.call('XADD', KEYS[2], '*', 'state', state, unpack(fields, 5))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1`,
};
