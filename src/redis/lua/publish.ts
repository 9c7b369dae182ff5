/**
 * Scripts that add messages to a topic.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

/**
 * Defines `each(first, add)`: calls `add(n, header, body)` for each message in ARGV, from place `first` on, whose id was
 * not published within the window, `n` counting from 1; and notes those ids. Returns how many there were. Ids are kept
 * in two sets of bounded size: the current one becomes the older one when it is as old as the window or full, so each
 * id is known for at least the window or for the last `ARGV[2]` ids, whichever is shorter. All ids are looked up by one
 * command and noted by another: a command per id costs half as much again.
 *
 * KEYS[2] current ids, KEYS[3] older ids, ARGV[1] window in ms (0: no deduplication), ARGV[2] ids per set.
 */
const DEDUPLICATE = `
local call, argv, current, older = redis.call, ARGV, KEYS[2], KEYS[3]
local sub, find = string.sub, string.find
local function each(first, add)
  local window, ids, count = tonumber(argv[1]), {}, 0
  local known, seen
  if window > 0 then
    for i = first, #argv, 2 do
      count = count + 1
      ids[count] = sub(argv[i], 1, find(argv[i], '\t', 1, true) - 1)
    end
    local age = call('PTTL', current)
    if age ~= -2 and (age <= window + 60000 or call('SCARD', current) >= tonumber(argv[2])) then
      call('UNLINK', older)
      call('RENAME', current, older)
      age = -2
    end
    if count == 1 then
      known = { call('SISMEMBER', older, ids[1]) + 1 - call('SADD', current, ids[1]) }
    else
      known = call('SMISMEMBER', current, unpack(ids))
      if call('EXISTS', older) == 1 then
        for i, member in ipairs(call('SMISMEMBER', older, unpack(ids))) do known[i] = known[i] + member end
      end
      if call('SADD', current, unpack(ids)) < count then seen = {} end
    end
    if age == -2 then call('PEXPIRE', current, 2 * window + 60000) end
  end
  local n = 0
  for i = first, #argv, 2 do
    local place = (i - first) / 2 + 1
    if not known or (known[place] == 0 and not (seen and seen[ids[place]])) then
      if seen then seen[ids[place]] = true end
      n = n + 1
      add(n, argv[i], argv[i + 1])
    end
  end
  return n
end`;

/**
 * Adds messages to the log in order, except those whose id was published within the window. Returns how many it added.
 *
 * KEYS: log, ids, older ids. ARGV: window in ms, ids per set, then header and body of each message.
 */
export const PUBLISH: RedisScript = {
  name: "publish",
  // XLEN comes first so that a key of another type is refused before any id is noted.
  source: `${DEDUPLICATE}
local log = KEYS[1]
call('XLEN', log)
return each(3, function(_, header, body) call('XADD', log, '*', header, body) end)`,
};

/**
 * Keeps messages until they are due, except those whose id was published within the window. Returns how many it kept.
 *
 * KEYS: delayed, ids, older ids, delayed ids. ARGV: window in ms, ids per set, delay in ms, then header and body of each
 * message.
 */
export const PUBLISH_LATER: RedisScript = {
  name: "publish-later",
  // Scores differ by 1/4096 ms, the resolution of a double at this size, so that messages of one call keep their order.
  source: `${DEDUPLICATE}
call('ZCARD', KEYS[1])
local time = call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(argv[3])
return each(4, function(n, header, body)
  local score = string.format('%.4f', due + n / 4096)
  call('ZADD', KEYS[1], score, cmsgpack.pack({ score, header, body }))
  call('HSET', KEYS[4], sub(header, 1, find(header, '\t', 1, true) - 1), score)
end)`,
};

/**
 * Defines `promote(sorted set, stream, now, moved)`: moves up to 100 due messages to the stream, in order, and calls
 * `moved(member, new id)` for each. Returns the milliseconds until the next is due, or -1. Without memory to spare on the
 * server it leaves them for later instead of failing: whatever runs it must go on.
 *
 * With it `publish(delayed, delayed ids, log, now)` does so for messages published with a delay, and `again(later,
 * retry, heads, now)` for failed ones.
 */
export const PROMOTE_DUE = `
local function promote(set, stream, now, moved)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, 100)) do
    local fields = cmsgpack.unpack(member)
    local added = redis.pcall('XADD', stream, '*', unpack(fields, 2))
    if type(added) == 'table' and added.err then return 1000 end
    redis.call('ZREM', set, member)
    moved(fields, added)
  end
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if not first[2] then return -1 end
  return math.max(0, math.ceil(tonumber(first[2]) - now))
end
local function publish(delayed, ids, log, now)
  return promote(delayed, log, now, function(fields)
    local id = string.match(fields[2], '^[^\t]*')
    if redis.call('HGET', ids, id) == fields[1] then redis.call('HDEL', ids, id) end
  end)
end
local function again(later, retry, heads, now)
  return promote(later, retry, now, function(fields, id)
    local key = string.match(fields[4] or '', '^[^\t]*\t[^\t]*\t([^\t]+)$')
    if key and redis.call('HGET', heads, key) == 'later' then redis.call('HSET', heads, key, '1:' .. id) end
  end)
end
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end`;

/**
 * Moves messages that were published with a delay and are due. Returns the milliseconds until the next is due, or -1.
 *
 * KEYS: delayed, delayed ids, log.
 */
export const PROMOTE_DELAYED: RedisScript = {
  name: "promote-delayed",
  source: `${PROMOTE_DUE}
return publish(KEYS[1], KEYS[2], KEYS[3], clock())`,
};

/**
 * Moves failed messages whose next attempt is due. Returns the milliseconds until the next is due, or -1.
 *
 * KEYS: later, retry, heads.
 */
export const PROMOTE_LATER: RedisScript = {
  name: "promote-later",
  source: `${PROMOTE_DUE}
return again(KEYS[1], KEYS[2], KEYS[3], clock())`,
};

/**
 * Gives a message that was published with a delay another time, or forgets it and its id. Returns 1, or 0 if it is not
 * there.
 *
 * KEYS: delayed, delayed ids, ids, older ids. ARGV: id, delay in ms or -1.
 */
export const RESCHEDULE: RedisScript = {
  name: "reschedule",
  source: `
local call, id = redis.call, ARGV[1]
local score = call('HGET', KEYS[2], id)
if not score then return 0 end
for _, member in ipairs(call('ZRANGEBYSCORE', KEYS[1], score, score)) do
  local fields = cmsgpack.unpack(member)
  if string.match(fields[2], '^[^\t]*') == id then
    call('ZREM', KEYS[1], member)
    if ARGV[2] == '-1' then
      call('HDEL', KEYS[2], id)
      call('SREM', KEYS[3], id)
      call('SREM', KEYS[4], id)
    else
      local time = call('TIME')
      local due = string.format('%.4f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2]))
      call('ZADD', KEYS[1], due, cmsgpack.pack({ due, fields[2], fields[3] }))
      call('HSET', KEYS[2], id, due)
    end
    return 1
  end
end
return 0`,
};
