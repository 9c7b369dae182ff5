/**
 * Scripts that make, leave and count consumer groups.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";
import { LANES } from "./lanes.ts";

/** Adds a topic to the set of all topics. KEYS: topics. ARGV: topic. Writes only if needed, so that it works without memory to spare. */
export const REGISTER: RedisScript = {
  name: "register",
  source: `if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then redis.call('SADD', KEYS[1], ARGV[1]) end
return 1`,
};

/**
 * Makes the group where it is missing: a new one at the start, at the end or at a moment as asked, one that was there
 * before at its low-water mark, never at the end. What was out or parked is then read again from the log; what waits in
 * the retry stream or for its time stays. Returns `{ log group made, retry group made, was known before }`.
 *
 * KEYS: see `lanes.ts`, then groups. ARGV: group, `start`, `now` or a time in ms.
 */
export const JOIN: RedisScript = {
  name: "join",
  source: `${LANES}
local last = '0-0'
if call('EXISTS', log) == 1 then
  local info = call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
local mark = call('HGET', known, 'mark:' .. group)
local from = '0-0'
if mark then
  if not after(mark, last) then from = mark end
elseif ARGV[2] == 'now' then
  from = last
elseif ARGV[2] ~= 'start' and ARGV[2] ~= '0' then
  from = string.format('%.0f', tonumber(ARGV[2]) - 1) .. '-18446744073709551615'
end
local function make(stream, id)
  -- Asked first, because a server without memory to spare refuses XGROUP CREATE even where there is nothing to do.
  if not redis.pcall('XPENDING', stream, group).err then return 0 end
  local made = redis.pcall('XGROUP', 'CREATE', stream, group, id, 'MKSTREAM')
  return made.err and made or 1
end
local madeLog = make(log, from)
if type(madeLog) == 'table' then return madeLog end
local madeRetry = make(retry, '0-0')
if type(madeRetry) == 'table' then return madeRetry end
if madeLog == 1 then
  call('HSET', known, 'gate:' .. group, from)
  local busy = call('HGETALL', heads)
  for i = 1, #busy, 2 do
    if string.sub(busy[i + 1], 1, 2) == '0:' then call('HDEL', heads, busy[i]) end
  end
  local kept = {}
  for _, member in ipairs(call('ZRANGE', parked, 0, -1)) do
    local key = string.match(member, '^[^\\t]*')
    if string.sub(member, #key + 18, #key + 18) == 'L' then call('ZREM', parked, member) else kept[#kept + 1] = key end
  end
  for _, key in ipairs(kept) do
    if call('HEXISTS', heads, key) == 0 then advance(key) end
  end
end
if not mark then call('HSET', known, 'mark:' .. group, from) end
if call('SISMEMBER', KEYS[7], group) == 0 then call('SADD', KEYS[7], group) end
return { madeLog, madeRetry, mark and 1 or 0 }`,
};

/**
 * Defines `note(log, known, group)`: remembers the group's low-water mark, below which everything is settled, so that
 * a group that vanishes can go on from there.
 */
export const NOTE_MARK = `
local function note(log, known, group)
  local pending, mark = redis.pcall('XPENDING', log, group), nil
  if pending.err then return end
  if pending[1] > 0 then
    local ms, seq = string.match(pending[2], '^(%d+)-(%d+)$')
    if tonumber(seq) > 0 then
      mark = ms .. '-' .. string.format('%.0f', tonumber(seq) - 1)
    else
      mark = string.format('%.0f', tonumber(ms) - 1) .. '-18446744073709551615'
    end
  else
    for _, facts in ipairs(redis.call('XINFO', 'GROUPS', log)) do
      local named = {}
      for i = 1, #facts, 2 do named[facts[i]] = facts[i + 1] end
      if named['name'] == group then mark = named['last-delivered-id'] end
    end
  end
  redis.pcall('HSET', known, 'mark:' .. group, mark)
end`;

/**
 * Hands everything a consumer holds back to the group, up to 100 entries of each stream per call, and forgets the
 * consumer once it holds nothing. Without memory to spare on the server the entries stay for their lease to run out.
 * Returns 1 when there is no more to do.
 *
 * KEYS: see `lanes.ts`. ARGV: group, consumer.
 */
export const LEAVE: RedisScript = {
  name: "leave",
  source: `${LANES}
${NOTE_MARK}
local finished = 1
if not redis.pcall('XPENDING', log, group).err then gate('+') end
for kind, stream in ipairs({ log, retry }) do
  local rows = redis.pcall('XPENDING', stream, group, '-', '+', 100, ARGV[2])
  if not rows.err then
    local kept = 0
    for _, row in ipairs(rows) do
      local id = row[1]
      local found = call('XRANGE', stream, id, id)[1]
      local added
      if found then
        local fields, state, from = found[2], '1 0 0', 1
        if kind == 2 and fields[1] == 'state' then state, from = string.match(fields[2], '^%d+ %d+ %d+') or state, 3 end
        added = redis.pcall('XADD', retry, '*', 'state', state, unpack(fields, from))
        if type(added) ~= 'table' then moved(keyOf(fields[from]), kind - 1 .. ':' .. id, '1:' .. added) end
      end
      if type(added) == 'table' then
        kept = kept + 1
      else
        call('XACK', stream, group, id)
        if kind == 2 then call('XDEL', stream, id) end
        call('HDEL', started, kind - 1 .. ':' .. id)
      end
    end
    if kept == 0 and #rows == 100 then
      finished = 0
    elseif kept == 0 then
      call('XGROUP', 'DELCONSUMER', stream, group, ARGV[2])
    end
  end
end
note(log, known, group)
return finished`,
};

/**
 * Counts a group: `{ ready, in flight, delayed, dead, age of the oldest in ms or -1 }`. Where the server does not know
 * how far the group is behind, the log is counted, up to 10,000. The oldest is looked for at the front of everything
 * that waits or is out; of messages that wait for their next attempt, the one that is due first counts, by its first
 * failure.
 *
 * KEYS: see `lanes.ts`, then delayed, later, dead. ARGV: group.
 */
export const LAG: RedisScript = {
  name: "lag",
  source: `${LANES}
local function standing(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    for _, facts in ipairs(groups) do
      local named = {}
      for i = 1, #facts, 2 do named[facts[i]] = facts[i + 1] end
      if named['name'] == group then return named end
    end
  end
  return { pending = 0 }
end
local time, oldest = call('TIME'), nil
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function older(ms)
  ms = tonumber(ms)
  if ms and ms > 0 and (not oldest or ms < oldest) then oldest = ms end
end
local function failed(state) older(string.match(state or '', '^%d+ (%d+)')) end
local function born(id) older(string.match(id or '', '^%d+')) end

local here, again = standing(log), standing(retry)
local from = here['last-delivered-id'] and '(' .. here['last-delivered-id'] or '-'
local ready = here['lag'] or #call('XRANGE', log, from, '+', 'COUNT', 10000)
local next = call('XRANGE', log, from, '+', 'COUNT', 1)[1]
if next then born(next[1]) end
local behind = 0
if here['pending'] > 0 then
  local summary = call('XPENDING', log, group)
  born(summary[2])
  for _, holder in ipairs(summary[4] or {}) do
    if holder[1] == 'parked' then behind = tonumber(holder[2]) end
  end
end
local first = call('XRANGE', retry, '-', '+', 'COUNT', 1)[1]
if first then
  born(first[1])
  failed(first[2][1] == 'state' and first[2][2])
end
local due = call('ZRANGE', KEYS[8], 0, 0)[1]
if due then failed(cmsgpack.unpack(due)[3]) end
-- Settled entries of the retry stream are deleted, so what is not pending is waiting.
return {
  ready + call('ZCARD', parked) + call('XLEN', retry) - again['pending'],
  here['pending'] - behind + again['pending'],
  call('ZCARD', KEYS[7]) + call('ZCARD', KEYS[8]),
  call('XLEN', KEYS[9]),
  oldest and math.max(0, now - oldest) or -1,
}`,
};
