/**
 * Removes what is over from a topic.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

/**
 * Removes entries from the front of the log that every group has settled and that are neither young nor among the last:
 * whole nodes of the stream (some 100 entries), up to 10,000 entries per call. A group that is known and not there at
 * the moment counts with its low-water mark. Returns `{ how many were removed, the group that held back the most or "",
 * for how many ms the oldest that it did not
 * settle would be gone without it }`.
 *
 * What waits in retry streams, lanes and dead letters has its own bytes, or is still pending in the log.
 *
 * KEYS: log, groups, known. ARGV: how old an entry must be in ms, how many entries stay at least.
 */
export const TRIM: RedisScript = {
  name: "trim",
  source: `
local call, log = redis.call, KEYS[1]
local info = redis.pcall('XINFO', 'GROUPS', log)
if info.err then return { 0, '', '', 0 } end
local function split(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local age = now - tonumber(ARGV[1])
local ms, seq, slowest = math.max(0, age), 0, ''
local function keep(group, gms, gseq)
  if gms < ms or (gms == ms and gseq < seq) then ms, seq, slowest = gms, gseq, group end
end
local function settled(group, id)
  local gms, gseq = split(id)
  -- Ids are 64 bits, numbers 53: the greatest sequence number is followed by the next millisecond.
  if gseq >= 9007199254740991 then keep(group, gms + 1, 0) else keep(group, gms, gseq + 1) end
end
local there = {}
for _, facts in ipairs(info) do
  local named = {}
  for i = 1, #facts, 2 do named[facts[i]] = facts[i + 1] end
  local group = named['name']
  there[group] = true
  if named['pending'] > 0 then
    keep(group, split(call('XPENDING', log, group)[2]))
  else
    settled(group, named['last-delivered-id'])
  end
end
for _, group in ipairs(call('SMEMBERS', KEYS[2])) do
  if not there[group] then settled(group, call('HGET', KEYS[3], 'mark:' .. group) or '0-0') end
end
local floor = string.format('%.0f-%.0f', ms, seq)
local held = slowest ~= '' and call('XRANGE', log, floor, '+', 'COUNT', 1)[1]
local late = held and math.max(0, age - split(held[1])) or 0
local room = math.min(10000, call('XLEN', log) - tonumber(ARGV[2]))
local removed = 0
if room > 0 then removed = call('XTRIM', log, 'MINID', '~', floor, 'LIMIT', room) end
return { removed, slowest, held and held[1] or '', late }`,
};
