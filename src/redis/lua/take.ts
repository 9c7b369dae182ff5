/**
 * Scripts that bring entries to a consumer which a plain XREADGROUP does not bring.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";
import { NOTE_MARK } from "./group.ts";
import { PROMOTE_DUE } from "./publish.ts";

/**
 * Defines `claim(stream, id, count)`: makes the entry the consumer's own and returns its fields with the new delivery
 * count. An entry that is no longer in the stream is taken from the group and noted in `lost`.
 */
const CLAIM = `
local lost = {}
local function claim(stream, row)
  local entry = redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, row[1])[1]
  if entry then return entry[2], row[4] + 1 end
  redis.call('XACK', stream, ARGV[1], row[1])
  lost[#lost + 1] = row[1]
end`;

/**
 * Moves due messages, then takes over entries whose owner's lease ran out. A consumer's lease is the last part of its
 * name. Looks at up to 100 idle entries of each stream per call, from where the last call stopped.
 *
 * Returns `{ server time in ms, ms until something is due or -1, cursor of the log, cursor of the retry stream, lost
 * ids, taken }`, with `taken` holding `{ 0 for the log or 1 for retry, id, delivery count, fields }`.
 *
 * With ARGV[7] = 1 it also notes the group's low-water mark and forgets consumers that hold nothing and have been gone
 * for ten minutes.
 *
 * KEYS: log, retry, delayed, later, known. ARGV: group, consumer, most to take, own lease in ms, cursor of the log,
 * cursor of the retry stream, 0 or 1.
 */
export const SWEEP: RedisScript = {
  name: "sweep",
  source: `${PROMOTE_DUE}
${CLAIM}
${NOTE_MARK}
local group, room, lease = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local now, wake = clock(), -1
local function sooner(ms)
  if ms >= 0 and (wake < 0 or ms < wake) then wake = ms end
end
sooner(promote(KEYS[3], KEYS[1], now))
sooner(promote(KEYS[4], KEYS[2], now))

local taken, cursors = {}, {}
local function leaseOf(name)
  return tonumber(string.match(name, '%.(%d+)$')) or lease
end
local function sweep(kind, stream, cursor)
  local standing = redis.call('XPENDING', stream, group)
  if standing[1] == 0 then return '-' end
  local shortest = 86400000
  for _, holder in ipairs(standing[4]) do shortest = math.min(shortest, leaseOf(holder[1])) end
  sooner(math.max(100, shortest / 4))
  local rows = redis.call('XPENDING', stream, group, 'IDLE', shortest, cursor, '+', 100)
  local next = #rows == 100 and '(' .. rows[100][1] or '-'
  for i, row in ipairs(rows) do
    local left = leaseOf(row[2]) - row[3]
    if left > 0 then
      sooner(left)
    elseif #taken == room then
      sooner(0)
      return i > 1 and '(' .. rows[i - 1][1] or cursor
    else
      local fields, count = claim(stream, row)
      if fields then taken[#taken + 1] = { kind, row[1], count, fields } end
    end
  end
  return next
end
cursors[2] = sweep(1, KEYS[2], ARGV[6])
cursors[1] = sweep(0, KEYS[1], ARGV[5])

if ARGV[7] == '1' then
  note(KEYS[1], KEYS[5], group)
  for _, stream in ipairs({ KEYS[1], KEYS[2] }) do
    for _, facts in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
      local named = {}
      for i = 1, #facts, 2 do named[facts[i]] = facts[i + 1] end
      if named['pending'] == 0 and named['idle'] > 600000 then
        redis.call('XGROUP', 'DELCONSUMER', stream, group, named['name'])
      end
    end
  end
end
return { now, wake, cursors[1], cursors[2], lost, taken }`,
};

/**
 * Takes anew what the server handed to this consumer without the consumer getting to know it, because the connection
 * broke on the way. Returns `{ server time in ms, lost ids, taken }` as {@linkcode SWEEP} does.
 *
 * KEYS: log, retry. ARGV: group, consumer, most to take, how many of the following are ids of the log, then the ids
 * that the consumer knows it holds, first of the log, then of the retry stream.
 */
export const RECLAIM: RedisScript = {
  name: "reclaim",
  source: `${CLAIM}
local room, logs = tonumber(ARGV[3]), tonumber(ARGV[4])
local held = { {}, {} }
for i = 5, #ARGV do
  held[i - 4 <= logs and 1 or 2][ARGV[i]] = true
end
local taken = {}
for s = 2, 1, -1 do
  local stream = KEYS[s]
  for _, row in ipairs(redis.call('XPENDING', stream, ARGV[1], '-', '+', #ARGV - 4 + room, ARGV[2])) do
    if #taken == room then break end
    if not held[s][row[1]] then
      local fields, count = claim(stream, row)
      if fields then taken[#taken + 1] = { s - 1, row[1], count, fields } end
    end
  end
end
local time = redis.call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), lost, taken }`,
};
