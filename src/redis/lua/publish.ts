/**
 * Scripts that add messages to a topic.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

/**
 * Defines `fresh(id)`: whether the id was not published within the window, and notes it. Ids are kept in two sets of
 * bounded size: the current one becomes the older one when it is as old as the window or full, so each id is known for
 * at least the window or for the last `ARGV[2]` ids, whichever is shorter.
 *
 * KEYS[2] current ids, KEYS[3] older ids, ARGV[1] window in ms (0: no deduplication), ARGV[2] ids per set.
 */
const DEDUPLICATE = `
local window, age, older = tonumber(ARGV[1]), nil, false
if window > 0 then
  age = redis.call('PTTL', KEYS[2])
  if age ~= -2 and (age <= window + 60000 or redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[2])) then
    redis.call('UNLINK', KEYS[3])
    redis.call('RENAME', KEYS[2], KEYS[3])
    age = -2
  end
  older = redis.call('EXISTS', KEYS[3]) == 1
end
local function fresh(id)
  if window == 0 then return true end
  if older and redis.call('SISMEMBER', KEYS[3], id) == 1 then return false end
  if redis.call('SADD', KEYS[2], id) == 0 then return false end
  if age == -2 then
    redis.call('PEXPIRE', KEYS[2], 2 * window + 60000)
    age = 0
  end
  return true
end`;

/**
 * Adds messages to the log in order, except those whose id was published within the window. Returns how many it added.
 *
 * KEYS: log, ids, older ids. ARGV: window in ms, ids per set, then header and body of each message.
 */
export const PUBLISH: RedisScript = {
  name: "publish",
  // XLEN comes first so that a key of another type is refused before any id is noted.
  source: `redis.call('XLEN', KEYS[1])
${DEDUPLICATE}
local added = 0
for i = 3, #ARGV, 2 do
  if fresh(string.match(ARGV[i], '^[^\\t]+')) then
    redis.call('XADD', KEYS[1], '*', ARGV[i], ARGV[i + 1])
    added = added + 1
  end
end
return added`,
};

/**
 * Keeps messages until they are due, except those whose id was published within the window. Returns how many it kept.
 *
 * KEYS: delayed, ids, older ids. ARGV: window in ms, ids per set, delay in ms, then header and body of each message.
 */
export const PUBLISH_LATER: RedisScript = {
  name: "publish-later",
  // Scores differ by 1/4096 ms, the resolution of a double at this size, so that messages of one call keep their order.
  source: `redis.call('ZCARD', KEYS[1])
${DEDUPLICATE}
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
local added = 0
for i = 4, #ARGV, 2 do
  local id = string.match(ARGV[i], '^[^\\t]+')
  if fresh(id) then
    redis.call('ZADD', KEYS[1], string.format('%.4f', due + added / 4096), cmsgpack.pack({ id, ARGV[i], ARGV[i + 1] }))
    added = added + 1
  end
end
return added`,
};

/**
 * Defines `promote(sorted set, stream, now)`: moves up to 100 due messages to the stream, in order. Returns the
 * milliseconds until the next is due, or -1. Without memory to spare on the server it leaves them for later instead of
 * failing: whatever runs it must go on.
 */
export const PROMOTE_DUE = `
local function promote(set, stream, now)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, 100)) do
    local fields = cmsgpack.unpack(member)
    local added = redis.pcall('XADD', stream, '*', unpack(fields, 2))
    if type(added) == 'table' and added.err then return 1000 end
    redis.call('ZREM', set, member)
  end
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if not first[2] then return -1 end
  return math.max(0, math.ceil(tonumber(first[2]) - now))
end
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end`;

/**
 * Moves due messages to a stream. Returns the milliseconds until the next is due, or -1.
 *
 * KEYS: sorted set, stream.
 */
export const PROMOTE: RedisScript = {
  name: "promote",
  source: `${PROMOTE_DUE}
return promote(KEYS[1], KEYS[2], clock())`,
};
