/**
 * Scripts on dead letters.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";
import { LANES } from "./lanes.ts";

/**
 * Gives a dead letter back to its group as a first attempt, behind what its key has there. Returns 1, or 0 if it is not
 * there.
 *
 * KEYS: see `lanes.ts`, then dead. ARGV: group, id.
 */
export const REDRIVE: RedisScript = {
  name: "redrive",
  source: `${LANES}
local found = call('XRANGE', KEYS[7], ARGV[2], ARGV[2])[1]
if not found then return 0 end
local fields = found[2]
local first, redrives = string.match(fields[2], '^%d+ (%d+) (%d+)')
local again = { 'state', string.format('1 %s %.0f', first or '0', (redrives or 0) + 1), unpack(fields, 5) }
local key = keyOf(again[3])
if key and call('HEXISTS', heads, key) == 1 then
  park(key, 'M', cmsgpack.pack(again))
else
  local id = call('XADD', retry, '*', unpack(again))
  if key then call('HSET', heads, key, '1:' .. id) end
end
call('XDEL', KEYS[7], ARGV[2])
return 1`,
};
