/**
 * The order of a key across all consumers of a group, kept by the server.
 *
 * A message with a key may be out only if it is its key's head. `heads` holds, for each key that is busy, the place of
 * that message: `0:<id>` in the log, `1:<id>` in the retry stream, or `later` while it waits for its next attempt. What
 * is read from the log while its key is busy is parked: it stays pending in the log under the consumer `parked`, and
 * its id waits in the sorted set `parked`. When the head is settled for good, the next of its key moves to the retry
 * stream, where a reader that waits gets it at once. A head that is retried, released, or whose consumer died stays the
 * head. So everything with a key in the retry stream is a head, and messages without a key pay nothing.
 *
 * Readers take from the log by a plain XREADGROUP and then pass the gate ({@linkcode ADMIT}), so two of them may come
 * to the gate in another order than they read. The gate therefore goes through the log in its order: before it looks at
 * a reader's messages it looks at all pending ones before them that did not pass yet, whoever has them. How far it has
 * come is noted in `known`.
 *
 * Leased partitions, the usual way, would hold back every key of a partition behind one that waits for its retry, fix
 * the number of keys that are handled at the same time when the topic is made, and stop at each change of owner.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

/** Where to stop taking from the log: one key with a long queue must not bring the whole log into memory. */
export const PARKED_MAX = 10_000;

/**
 * Names the KEYS of `laneKeys` and defines:
 * - `keyOf(header)`: the key of a message, if it has one.
 * - `advance(key)`: the key's head is gone; lets the next one go, if there is one.
 * - `freed(key, place)`: the same, if the head is at `place`.
 * - `moved(key, from, to)`: notes where the head is now.
 * - `gate(last)`: lets everything pending up to `last` pass the gate, and returns how far it has come.
 * - `after(a, b)`: whether one entry id is greater than another.
 *
 * KEYS: log, retry, heads, parked, started, known. ARGV[1]: group.
 */
export const LANES = `
local call = redis.call
local log, retry, heads, parked, started, known = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group = ARGV[1]
local function keyOf(header)
  return string.match(header or '', '^[^\\t]*\\t[^\\t]*\\t([^\\t]+)$')
end
local function after(a, b)
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  ams, bms = tonumber(ams), tonumber(bms)
  return ams > bms or (ams == bms and tonumber(aseq) > tonumber(bseq))
end
local function advance(key)
  while true do
    local from, to = '[' .. key .. '\\t', '(' .. key .. '\\t\\255'
    local member = call('ZRANGEBYLEX', parked, from, to, 'LIMIT', 0, 1)[1]
    call('HDEL', heads, key)
    if not member then return end
    local kind, rest = string.sub(member, #key + 18, #key + 18), string.sub(member, #key + 19)
    local fields
    if kind == 'L' then
      local found = call('XRANGE', log, rest, rest)[1]
      if found then fields = { 'state', '1 0 0', unpack(found[2]) } end
      call('XACK', log, group, rest)
    else
      fields = cmsgpack.unpack(rest)
    end
    call('ZREM', parked, member)
    if fields then
      call('HSET', heads, key, '1:' .. call('XADD', retry, '*', unpack(fields)))
      return
    end
    call('HINCRBY', known, 'lost:' .. group, 1)
  end
end
local function freed(key, place)
  if key and key ~= '' and call('HGET', heads, key) == place then advance(key) end
end
local function moved(key, from, to)
  if key and key ~= '' and call('HGET', heads, key) == from then call('HSET', heads, key, to) end
end
local function park(key, kind, rest)
  local number = string.format('%016.0f', call('HINCRBY', known, 'parked:' .. group, 1))
  call('ZADD', parked, 0, key .. '\\t' .. number .. kind .. rest)
end
local function admit(id, key)
  local head = call('HGET', heads, key)
  if head == '0:' .. id then return true end
  if not head then
    call('HSET', heads, key, '0:' .. id)
    return true
  end
  local row = call('XPENDING', log, group, id, id, 1)[1]
  if row and row[2] ~= 'parked' then
    park(key, 'L', id)
    call('XCLAIM', log, group, 'parked', 0, id, 'JUSTID')
  end
end
local function gate(last)
  -- A server without memory to spare refuses a script that would grow, but only as its first write; and consumers must
  -- go on, or there will never be any.
  call('HDEL', heads, '')
  local noted = call('HGET', known, 'gate:' .. group) or '0-0'
  local cursor, rows = noted, nil
  repeat
    rows = call('XPENDING', log, group, '(' .. cursor, last, 500)
    for _, row in ipairs(rows) do
      cursor = row[1]
      if row[2] ~= 'parked' then
        local entry = call('XRANGE', log, cursor, cursor)[1]
        local key = entry and keyOf(entry[2][1])
        if key then admit(cursor, key) end
      end
    end
  until #rows < 500
  if cursor ~= noted then call('HSET', known, 'gate:' .. group, cursor) end
  return cursor
end`;

/**
 * Asks for leave to work on messages with a key that were just read from the log, in its order. Returns `{ how many
 * messages are parked, the places (from 0) of those that are parked now }`.
 *
 * KEYS: see {@linkcode LANES}. ARGV: group, consumer, first and last id of what was read, then key and id of each message
 * that has a key.
 */
export const ADMIT: RedisScript = {
  name: "admit",
  source: `${LANES}
local first, last = ARGV[3], ARGV[4]
local cursor = gate('(' .. first)
local refused = {}
if after(first, cursor) then
  -- Nobody looked at these before, so nothing has to be asked for each of them.
  local keys, set, ids, members = {}, {}, {}, {}
  for i = 5, #ARGV, 2 do keys[#keys + 1] = ARGV[i] end
  local busy = call('HMGET', heads, unpack(keys))
  local mine = {}
  for i, key in ipairs(keys) do
    local id = ARGV[2 * i + 4]
    if not busy[i] and not mine[key] then
      mine[key] = true
      set[#set + 1] = key
      set[#set + 1] = '0:' .. id
    else
      refused[#refused + 1] = i - 1
      ids[#ids + 1] = id
    end
  end
  if #set > 0 then call('HSET', heads, unpack(set)) end
  if #ids > 0 then
    local number = call('HINCRBY', known, 'parked:' .. group, #ids) - #ids
    for i, place in ipairs(refused) do
      members[2 * i - 1] = 0
      members[2 * i] = keys[place + 1] .. '\\t' .. string.format('%016.0f', number + i) .. 'L' .. ids[i]
    end
    call('ZADD', parked, unpack(members))
    ids[#ids + 1] = 'JUSTID'
    call('XCLAIM', log, group, 'parked', 0, unpack(ids))
  end
else
  -- Others did: by now it may be parked, with someone else, or even be done with.
  for i = 5, #ARGV, 2 do
    local id = ARGV[i + 1]
    local row = call('XPENDING', log, group, id, id, 1)[1]
    if not row or row[2] ~= ARGV[2] or not admit(id, ARGV[i]) then refused[#refused + 1] = (i - 5) / 2 end
  end
end
if after(last, cursor) then call('HSET', known, 'gate:' .. group, last) end
return { call('ZCARD', parked), refused }`,
};

/**
 * Defines `heal()`: looks at some of the heads, from where it stopped the last time, and lets the next of a key go whose
 * head is nowhere any more, because somebody deleted it. Needs {@linkcode LANES}.
 */
export const HEAL = `
local function heal()
  local found = call('HSCAN', heads, call('HGET', known, 'heal:' .. group) or '0', 'COUNT', 100)
  for i = 1, #found[2], 2 do
    local key, place = found[2][i], found[2][i + 1]
    local id = string.sub(place, 3)
    local there = true
    if string.sub(place, 1, 2) == '0:' then
      there = call('XPENDING', log, group, id, id, 1)[1]
    elseif string.sub(place, 1, 2) == '1:' then
      there = call('XRANGE', retry, id, id)[1]
    end
    if not there then
      call('HINCRBY', known, 'lost:' .. group, 1)
      advance(key)
    end
  end
  call('HSET', known, 'heal:' .. group, found[1])
end`;
