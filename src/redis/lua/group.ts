/**
 * Scripts that make, leave and count consumer groups.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

/** Adds a topic to the set of all topics. KEYS: topics. ARGV: topic. Writes only if needed, so that it works without memory to spare. */
export const REGISTER: RedisScript = {
  name: "register",
  source: `if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then redis.call('SADD', KEYS[1], ARGV[1]) end
return 1`,
};

/**
 * Makes the group where it is missing: a new one at the start or at the end of the log as asked, one that was there
 * before at its low-water mark, never at the end. Returns `{ log group made, retry group made, was known before }`.
 *
 * KEYS: log, retry, groups, known. ARGV: group, `start` or `now`.
 */
export const JOIN: RedisScript = {
  name: "join",
  source: `
local group = ARGV[1]
local function split(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function after(a, b)
  local ams, aseq = split(a)
  local bms, bseq = split(b)
  return ams > bms or (ams == bms and aseq > bseq)
end
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
local mark = redis.call('HGET', KEYS[4], 'mark:' .. group)
local from = '0-0'
if mark then
  if not after(mark, last) then from = mark end
elseif ARGV[2] == 'now' then
  from = last
end
local function make(stream, id)
  -- Asked first, because a server without memory to spare refuses XGROUP CREATE even where there is nothing to do.
  if not redis.pcall('XPENDING', stream, group).err then return 0 end
  local made = redis.pcall('XGROUP', 'CREATE', stream, group, id, 'MKSTREAM')
  return made.err and made or 1
end
local log = make(KEYS[1], from)
if type(log) == 'table' then return log end
local retry = make(KEYS[2], '0-0')
if type(retry) == 'table' then return retry end
if not mark then redis.call('HSET', KEYS[4], 'mark:' .. group, from) end
if redis.call('SISMEMBER', KEYS[3], group) == 0 then redis.call('SADD', KEYS[3], group) end
return { log, retry, mark and 1 or 0 }`,
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
 * KEYS: log, retry, known. ARGV: group, consumer.
 */
export const LEAVE: RedisScript = {
  name: "leave",
  source: `${NOTE_MARK}
local finished = 1
for _, stream in ipairs({ KEYS[1], KEYS[2] }) do
  local rows = redis.pcall('XPENDING', stream, ARGV[1], '-', '+', 100, ARGV[2])
  if not rows.err then
    local kept = 0
    for _, row in ipairs(rows) do
      local found = redis.call('XRANGE', stream, row[1], row[1])[1]
      local added = {}
      if found then
        local fields = found[2]
        if stream == KEYS[1] then
          added = redis.pcall('XADD', KEYS[2], '*', 'state', '1 0 0', unpack(fields))
        else
          added = redis.pcall('XADD', KEYS[2], '*', unpack(fields))
        end
      end
      if type(added) == 'table' and added.err then
        kept = kept + 1
      else
        redis.call('XACK', stream, ARGV[1], row[1])
        if stream == KEYS[2] then redis.call('XDEL', stream, row[1]) end
      end
    end
    if kept == 0 and #rows == 100 then
      finished = 0
    elseif kept == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], ARGV[2])
    end
  end
end
note(KEYS[1], KEYS[3], ARGV[1])
return finished`,
};

/**
 * Counts a group: `{ ready, in flight, delayed, dead }`. Where the server does not know how far the group is behind,
 * the log is counted, up to 10,000.
 *
 * KEYS: log, retry, delayed, later, dead. ARGV: group.
 */
export const LAG: RedisScript = {
  name: "lag",
  source: `
local function standing(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    for _, group in ipairs(groups) do
      local facts = {}
      for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
      if facts['name'] == ARGV[1] then return facts end
    end
  end
  return { pending = 0 }
end
local log, retry = standing(KEYS[1]), standing(KEYS[2])
local ready = log['lag']
if not ready then
  local from = log['last-delivered-id'] and '(' .. log['last-delivered-id'] or '-'
  ready = #redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 10000)
end
-- Settled entries of the retry stream are deleted, so what is not pending is waiting.
ready = ready + redis.call('XLEN', KEYS[2]) - retry['pending']
return {
  ready,
  log['pending'] + retry['pending'],
  redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4]),
  redis.call('XLEN', KEYS[5]),
}`,
};
