/**
 * Scripts that begin, end or prolong deliveries. All but two check that the entry still belongs to the consumer and was
 * not handed out again since: XACK alone would also end what another consumer is working on. Those two check the time.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";
import { LANES } from "./lanes.ts";

/**
 * Defines `finished(places, pairs)`: forgets how often these were begun, and lets the next of each key go; `pairs` is
 * where in ARGV place and key of each delivery that has a key begin.
 */
const FINISHED = `
local function finished(places, pairs)
  if #places > 0 and call('EXISTS', started) == 1 then call('HDEL', started, unpack(places)) end
  if pairs > #ARGV then return end
  local keys, free = {}, {}
  for i = pairs + 1, #ARGV, 2 do keys[#keys + 1] = ARGV[i] end
  local busy = call('HMGET', heads, unpack(keys))
  for i, key in ipairs(keys) do
    if busy[i] == ARGV[pairs + 2 * i - 2] then free[#free + 1] = key end
  end
  if #free == 0 then return end
  if call('EXISTS', parked) == 0 then return call('HDEL', heads, unpack(free)) end
  for _, key in ipairs(free) do advance(key) end
end`;

/**
 * Acknowledges, if the server's clock says that no lease of these can have run out yet: then nobody else can have them,
 * and no entry needs to be looked at. An entry that is gone was acknowledged before. Returns 0, and does nothing, if
 * it is too late for that.
 *
 * KEYS: see `lanes.ts`. ARGV: group, server time in ms until which it is valid, how many of the following are ids of the
 * log, how many after these of the retry stream, then those ids, then place and key of each delivery that has a key.
 */
export const ACK_IN_TIME: RedisScript = {
  name: "ack-in-time",
  source: `${LANES}
${FINISHED}
local time = call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) >= tonumber(ARGV[2]) then return 0 end
local logs, retries = tonumber(ARGV[3]), tonumber(ARGV[4])
if logs > 0 then call('XACK', log, group, unpack(ARGV, 5, 4 + logs)) end
if retries > 0 then
  call('XACK', retry, group, unpack(ARGV, 5 + logs, 4 + logs + retries))
  call('XDEL', retry, unpack(ARGV, 5 + logs, 4 + logs + retries))
end
local places = {}
if call('EXISTS', started) == 1 then
  for i = 5, 4 + logs + retries do places[#places + 1] = (i < 5 + logs and '0:' or '1:') .. ARGV[i] end
end
finished(places, 5 + logs + retries)
return 1`,
};

/**
 * Defines `owns(kind, id, count)`: whether the entry is this consumer's and was handed out `count` times; and `row`,
 * which is nil afterwards if nobody has it.
 */
const OWNS = `${LANES}
local row
local function owns(kind, id, count)
  row = redis.pcall('XPENDING', KEYS[kind + 1], group, id, id, 1)[1]
  return row and row[2] == ARGV[2] and row[4] == tonumber(count)
end
local function close(kind, id)
  call('XACK', KEYS[kind + 1], group, id)
  if kind == '1' then call('XDEL', retry, id) end
end`;

/**
 * Acknowledges what still belongs to the consumer. Returns the places (from 0) of those that do not.
 *
 * KEYS: see `lanes.ts`. ARGV: group, consumer, then for each 0 (log) or 1 (retry), id, delivery count, key.
 */
export const ACK: RedisScript = {
  name: "ack",
  source: `${OWNS}
local refused = {}
for i = 3, #ARGV, 4 do
  local kind, id = ARGV[i], ARGV[i + 1]
  if owns(kind, id, ARGV[i + 2]) then
    close(kind, id)
    call('HDEL', started, kind .. ':' .. id)
    freed(ARGV[i + 3], kind .. ':' .. id)
  else
    refused[#refused + 1] = (i - 3) / 4
  end
end
return refused`,
};

/**
 * Starts the leases anew. Returns `{ server time in ms, places (from 0) of those that no longer belong to the consumer }`.
 *
 * KEYS and ARGV as {@linkcode ACK}.
 */
export const EXTEND: RedisScript = {
  name: "extend",
  // JUSTID leaves the delivery count as it is, so the delivery's token stays valid.
  source: `${OWNS}
local refused = {}
for i = 3, #ARGV, 4 do
  if owns(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then
    call('XCLAIM', KEYS[ARGV[i] + 1], group, ARGV[2], 0, ARGV[i + 1], 'IDLE', 0, 'JUSTID')
  else
    refused[#refused + 1] = (i - 3) / 4
  end
end
local time = call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), refused }`,
};

/**
 * Counts that handlers begin to work on deliveries. Returns for each how often one has begun, this time included, or -1
 * if it no longer belongs to the consumer.
 *
 * KEYS and ARGV as {@linkcode ACK}, with the server time in ms until which all belong to the consumer for sure, between
 * consumer and deliveries.
 */
export const BEGIN: RedisScript = {
  name: "begin",
  source: `${OWNS}
local time = call('TIME')
local sure = time[1] * 1000 + math.floor(time[2] / 1000) < tonumber(ARGV[3])
local counts = {}
call('HDEL', started, '') -- see the gate: what grows may not be a script's first write
for i = 4, #ARGV, 4 do
  if sure or owns(ARGV[i], ARGV[i + 1], ARGV[i + 2]) then
    counts[#counts + 1] = call('HINCRBY', started, ARGV[i] .. ':' .. ARGV[i + 1], 1)
  else
    counts[#counts + 1] = -1
  end
end
return counts`,
};

/**
 * Puts entries at the end of the group's retry stream with the attempt they have. What no longer belongs to the
 * consumer is left alone. Returns the places (from 0) of those.
 *
 * KEYS and ARGV as {@linkcode ACK}.
 */
export const RELEASE: RedisScript = {
  name: "release",
  source: `${OWNS}
local refused = {}
for i = 3, #ARGV, 4 do
  local kind, id = ARGV[i], ARGV[i + 1]
  local found = owns(kind, id, ARGV[i + 2]) and call('XRANGE', KEYS[kind + 1], id, id)[1]
  if not found then
    refused[#refused + 1] = (i - 3) / 4
  else
    local fields = found[2]
    local state, from = '1 0 0', 1
    if kind == '1' and fields[1] == 'state' then state, from = string.match(fields[2], '^%d+ %d+ %d+') or state, 3 end
    local new = call('XADD', retry, '*', 'state', state, unpack(fields, from))
    close(kind, id)
    call('HDEL', started, kind .. ':' .. id)
    moved(ARGV[i + 3], kind .. ':' .. id, '1:' .. new)
  end
end
return refused`,
};

/**
 * Opens one delivery: its attempt, first failure, redrives and the message's fields; ends the script if it no longer
 * belongs to the consumer. Defines `settled()`, which takes it from the group. The fields come from the stream, so that
 * the bytes stay the original ones whatever the client's strings made of them; only if the entry was deleted there,
 * from the client.
 *
 * KEYS: see `lanes.ts`. ARGV: 1 group, 2 consumer, 3 0 (log) or 1 (retry), 4 id, 5 delivery count, 6 time of the failure
 * in ms, 7 server time in ms until which a missing entry means that this very call was executed before, 8 header,
 * 9 body.
 */
const ONE = `${OWNS}
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stream, id, place = KEYS[ARGV[3] + 1], ARGV[4], ARGV[3] .. ':' .. ARGV[4]
if not owns(ARGV[3], id, ARGV[5]) then return not row and now < tonumber(ARGV[7]) and 1 or 0 end
local found = call('XRANGE', stream, id, id)[1]
local fields = found and found[2] or { ARGV[8], ARGV[9] }
local attempt, first, redrives = 1, 0, 0
local a, f, r = string.match(ARGV[3] == '1' and fields[1] == 'state' and fields[2] or '', '^(%d+) (%d+) (%d+)')
if a then
  attempt, first, redrives = tonumber(a), tonumber(f), tonumber(r)
  fields = { unpack(fields, 3) }
end
if first == 0 then first = tonumber(ARGV[6]) end
local key = keyOf(fields[1])
local function settled()
  close(ARGV[3], id)
  call('HDEL', started, place)
  return 1
end
local function state(attempt, first, redrives)
  return string.format('%.0f %.0f %.0f', attempt, first, redrives)
end`;

/**
 * Ends a delivery as failed and plans the next one, to this group only. Returns 1, or 0 if the lease was lost.
 *
 * KEYS: see `lanes.ts`, then later. ARGV: see {@linkcode ONE}, 10 delay in ms.
 */
export const RETRY: RedisScript = {
  name: "retry",
  source: `${ONE}
local again = state(attempt + 1, first, redrives)
if tonumber(ARGV[10]) <= 0 then
  moved(key, place, '1:' .. call('XADD', retry, '*', 'state', again, unpack(fields)))
else
  local due = string.format('%.0f', now + tonumber(ARGV[10]))
  call('ZADD', KEYS[7], due, cmsgpack.pack({ id, 'state', again, unpack(fields) }))
  moved(key, place, 'later')
end
return settled()`,
};

/**
 * Ends a delivery for good and keeps it among the dead letters. Returns 1, or 0 if the lease was lost.
 *
 * KEYS: see `lanes.ts`, then dead. ARGV: see {@linkcode ONE}, 10 the failure as JSON.
 */
export const DEAD_LETTER: RedisScript = {
  name: "dead-letter",
  source: `${ONE}
call('XADD', KEYS[7], '*', 'state', state(attempt, first, redrives), 'failure', ARGV[10], unpack(fields))
settled()
freed(key, place)
return 1`,
};
