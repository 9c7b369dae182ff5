/**
 * Scripts that read a topic as a log.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";
import { PROMOTE_DUE } from "./publish.ts";

/**
 * Reads what follows a position: an entry id, and the number of entries that were ever added up to it. Returns `{ last
 * id of the log, entries ever added, 1 if messages after the position are missing, number of the entry before the first
 * one returned, milliseconds until a delayed message is due or -1, entries }`. After `now` there are no entries.
 *
 * Trimming removes the oldest, so as long as the position's own entry is there, nothing after it was trimmed. Once it
 * is gone, as many entries must have been removed as were added up to it; more means a gap, fewer that this is not the
 * log the position comes from. Entries deleted one by one are known by the last of them. Redis before 7.0 counts
 * nothing; there a missing entry at the position is taken for a gap.
 *
 * KEYS: log, delayed, delayed ids. ARGV: entry id or `now`, its number (-1 to begin with whatever there is), most entries to return.
 */
export const READ_LOG: RedisScript = {
  name: "read-log",
  source: `${PROMOTE_DUE}
local wake = publish(KEYS[2], KEYS[3], KEYS[1], clock())
local facts = { ['last-generated-id'] = '0-0', ['entries-added'] = 0, length = 0 }
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if not info.err then
  facts = {}
  for i = 1, #info, 2 do facts[info[i]] = info[i + 1] end
end
local last, deleted, added = facts['last-generated-id'], facts['max-deleted-entry-id'], facts['entries-added']
local id, number = ARGV[1], tonumber(ARGV[2])
if id == 'now' then return { last, added or 0, 0, added or 0, wake, {} } end
local function split(text)
  local ms, seq = string.match(text, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function after(a, b)
  local ams, aseq = split(a)
  local bms, bseq = split(b)
  return ams > bms or (ams == bms and aseq > bseq)
end
local gap = number >= 0 and deleted and after(deleted, id) and 1 or 0
if id ~= deleted and #redis.call('XRANGE', KEYS[1], id, id) == 0 then
  if not added then
    if id ~= '0-0' and id ~= last then gap = 1 end
  else
    if number >= 0 and added - facts['length'] ~= number then gap = 1 end
    number = added - facts['length']
  end
end
return { last, added or 0, gap, number, wake, redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', ARGV[3]) }`,
};
