/**
 * Scripts that bring entries to a consumer which a plain XREADGROUP does not bring.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";
import { NOTE_MARK } from "./group.ts";
import { HEAL, LANES } from "./lanes.ts";
import { PROMOTE_DUE } from "./publish.ts";

/**
 * Defines `claim(kind, row)`: makes the entry the consumer's own and returns its fields with the new delivery count. An
 * entry that is no longer in the stream is taken from the group and noted in `lost`. Nothing comes of one that turns
 * out to wait for an earlier one of its key.
 */
const CLAIM = `${LANES}
local lost = {}
local function claim(kind, row)
  local stream, id = KEYS[kind + 1], row[1]
  if kind == 0 then
    gate(id)
    local found = call('XPENDING', log, group, id, id, 1)[1]
    if not found or found[2] == 'parked' then return end
  end
  local entry = call('XCLAIM', stream, group, ARGV[2], 0, id)[1]
  if entry then return entry[2], row[4] + 1 end
  local place = kind .. ':' .. id
  call('XACK', stream, group, id)
  call('HDEL', started, place)
  lost[#lost + 1] = id
  local busy = call('HGETALL', heads)
  for i = 1, #busy, 2 do
    if busy[i + 1] == place then advance(busy[i]) end
  end
end`;

/**
 * Moves due messages, then takes over entries whose owner's lease ran out. A consumer's lease is the last part of its
 * name.
 *
 * Returns `{ server time in ms, ms until something is due or -1, messages parked, lost ids, taken }`, with `taken`
 * holding `{ 0 for the log or 1 for retry, id, delivery count, fields }`.
 *
 * With ARGV[5] = 1 it also notes the group's low-water mark, looks after the keys' heads, and forgets consumers that hold
 * nothing and have been gone for ten minutes.
 *
 * KEYS: see `lanes.ts`, then delayed, delayed ids, later. ARGV: group, consumer, most to take, own lease in ms, 0 or 1.
 */
export const SWEEP: RedisScript = {
  name: "sweep",
  source: `${CLAIM}
${PROMOTE_DUE}
${NOTE_MARK}
${HEAL}
local room, now, wake = tonumber(ARGV[3]), clock(), -1
local function sooner(ms)
  if ms >= 0 and (wake < 0 or ms < wake) then wake = ms end
end
sooner(publish(KEYS[7], KEYS[8], log, now))
sooner(again(KEYS[9], retry, heads, now))

local taken = {}
local function sweep(kind, stream)
  local standing = call('XPENDING', stream, group)
  if standing[1] == 0 then return end
  for _, holder in ipairs(standing[4]) do
    local name = holder[1]
    if name ~= 'parked' then
      local lease = tonumber(string.match(name, '%.(%d+)$') or ARGV[4])
      sooner(math.max(100, lease / 4))
      local rows = call('XPENDING', stream, group, 'IDLE', lease, '-', '+', room - #taken + 1, name)
      for _, row in ipairs(rows) do
        if #taken == room then return sooner(0) end
        local fields, count = claim(kind, row)
        if fields then taken[#taken + 1] = { kind, row[1], count, fields } end
      end
    end
  end
end
sweep(1, retry)
sweep(0, log)

if ARGV[5] == '1' then
  call('HDEL', heads, '') -- see the gate: what grows may not be a script's first write
  note(log, known, group)
  heal()
  local gone = call('HGET', known, 'lost:' .. group)
  if gone then
    lost[#lost + 1] = gone .. ' that had a key'
    call('HDEL', known, 'lost:' .. group)
  end
  for _, stream in ipairs({ log, retry }) do
    for _, facts in ipairs(call('XINFO', 'CONSUMERS', stream, group)) do
      local named = {}
      for i = 1, #facts, 2 do named[facts[i]] = facts[i + 1] end
      if named['pending'] == 0 and named['idle'] > 600000 then
        call('XGROUP', 'DELCONSUMER', stream, group, named['name'])
      end
    end
  end
end
return { now, wake, call('ZCARD', parked), lost, taken }`,
};

/**
 * Takes anew what the server handed to this consumer without the consumer getting to know it, because the connection
 * broke on the way. Returns `{ server time in ms, lost ids, taken }` as {@linkcode SWEEP} does.
 *
 * KEYS: see `lanes.ts`. ARGV: group, consumer, most to take, how many of the following are ids of the log, then the ids
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
for kind = 1, 0, -1 do
  for _, row in ipairs(call('XPENDING', KEYS[kind + 1], group, '-', '+', #ARGV - 4 + room, ARGV[2])) do
    if #taken == room then break end
    if not held[kind + 1][row[1]] then
      local fields, count = claim(kind, row)
      if fields then taken[#taken + 1] = { kind, row[1], count, fields } end
    end
  end
end
local time = call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), lost, taken }`,
};
