/**
 * Scripts that end or prolong deliveries. All but the first check that the entry still belongs to the consumer and was
 * not handed out again since: XACK alone would also end what another consumer is working on.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

/**
 * Acknowledges, if the server's clock says that no lease of these can have run out yet: then nobody else can have them,
 * and no entry needs to be looked at. An entry that is gone was acknowledged before. Returns 0, and does nothing, if
 * it is too late for that.
 *
 * KEYS: log, retry. ARGV: group, server time in ms until which it is valid, how many of the following are ids of the
 * log, then the ids, first of the log, then of the retry stream.
 */
export const ACK_IN_TIME: RedisScript = {
  name: "ack-in-time",
  source: `
local time = redis.call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) >= tonumber(ARGV[2]) then return 0 end
local logs = tonumber(ARGV[3])
if logs > 0 then redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 4, 3 + logs)) end
if #ARGV > 3 + logs then
  redis.call('XACK', KEYS[2], ARGV[1], unpack(ARGV, 4 + logs))
  redis.call('XDEL', KEYS[2], unpack(ARGV, 4 + logs))
end
return 1`,
};

/**
 * Defines `owns(stream, id, count)`: whether the entry is this consumer's and was handed out `count` times; and `row`,
 * which is nil afterwards if nobody has it.
 */
const OWNS = `
local row
local function owns(stream, id, count)
  row = redis.pcall('XPENDING', stream, ARGV[1], id, id, 1)[1]
  return row and row[2] == ARGV[2] and row[4] == tonumber(count)
end`;

/**
 * Acknowledges what still belongs to the consumer. Returns the places (from 0) of those that do not.
 *
 * KEYS: log, retry. ARGV: group, consumer, then for each 0 (log) or 1 (retry), id, delivery count.
 */
export const ACK: RedisScript = {
  name: "ack",
  source: `${OWNS}
local refused = {}
for i = 3, #ARGV, 3 do
  local stream = KEYS[ARGV[i] + 1]
  if owns(stream, ARGV[i + 1], ARGV[i + 2]) then
    redis.call('XACK', stream, ARGV[1], ARGV[i + 1])
    if ARGV[i] == '1' then redis.call('XDEL', stream, ARGV[i + 1]) end
  else
    refused[#refused + 1] = (i - 3) / 3
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
for i = 3, #ARGV, 3 do
  local stream = KEYS[ARGV[i] + 1]
  if owns(stream, ARGV[i + 1], ARGV[i + 2]) then
    redis.call('XCLAIM', stream, ARGV[1], ARGV[2], 0, ARGV[i + 1], 'IDLE', 0, 'JUSTID')
  else
    refused[#refused + 1] = (i - 3) / 3
  end
end
local time = redis.call('TIME')
return { time[1] * 1000 + math.floor(time[2] / 1000), refused }`,
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
for i = 3, #ARGV, 3 do
  local stream, id = KEYS[ARGV[i] + 1], ARGV[i + 1]
  local found = owns(stream, id, ARGV[i + 2]) and redis.call('XRANGE', stream, id, id)[1]
  if not found then
    refused[#refused + 1] = (i - 3) / 3
  else
    if ARGV[i] == '1' then
      redis.call('XADD', KEYS[2], '*', unpack(found[2]))
      redis.call('XDEL', stream, id)
    else
      redis.call('XADD', KEYS[2], '*', 'state', '1 0 0', unpack(found[2]))
    end
    redis.call('XACK', stream, ARGV[1], id)
  end
end
return refused`,
};

/**
 * Defines `open()`: returns the delivery's attempt, first failure, redrives and the message's fields, or nothing if the
 * delivery no longer belongs to the consumer; and `close()`, which takes it from the group. The fields come from the
 * stream, so that the bytes stay the original ones whatever the client's strings made of them; only if the entry was
 * deleted there, from the client.
 *
 * KEYS[1] log, KEYS[2] retry. ARGV: 1 group, 2 consumer, 3 0 (log) or 1 (retry), 4 id, 5 delivery count, 6 time of
 * the failure in ms, 7 server time in ms until which a missing entry means that this very call was executed before,
 * 8 header, 9 body.
 */
const ONE = `${OWNS}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stream, id = KEYS[ARGV[3] + 1], ARGV[4]
local function open()
  if not owns(stream, id, ARGV[5]) then return end
  local found = redis.call('XRANGE', stream, id, id)[1]
  local fields = found and found[2] or { ARGV[8], ARGV[9] }
  local attempt, first, redrives = 1, 0, 0
  local a, f, r = string.match(ARGV[3] == '1' and fields[1] == 'state' and fields[2] or '', '^(%d+) (%d+) (%d+)$')
  if a then
    attempt, first, redrives = tonumber(a), tonumber(f), tonumber(r)
    fields = { unpack(fields, 3) }
  end
  if first == 0 then first = tonumber(ARGV[6]) end
  return attempt, first, redrives, fields
end
local function close()
  redis.call('XACK', stream, ARGV[1], id)
  if ARGV[3] == '1' then redis.call('XDEL', stream, id) end
  return 1
end
local function state(attempt, first, redrives)
  return string.format('%.0f %.0f %.0f', attempt, first, redrives)
end
local attempt, first, redrives, fields = open()
if not attempt then return not row and now < tonumber(ARGV[7]) and 1 or 0 end`;

/**
 * Ends a delivery as failed and plans the next one, to this group only. Returns 1, or 0 if the lease was lost.
 *
 * KEYS: log, retry, later. ARGV: see {@linkcode ONE}, 10 delay in ms.
 */
export const RETRY: RedisScript = {
  name: "retry",
  source: `${ONE}
local again = state(attempt + 1, first, redrives)
if tonumber(ARGV[10]) <= 0 then
  redis.call('XADD', KEYS[2], '*', 'state', again, unpack(fields))
else
  local due = string.format('%.0f', now + tonumber(ARGV[10]))
  redis.call('ZADD', KEYS[3], due, cmsgpack.pack({ id, 'state', again, unpack(fields) }))
end
return close()`,
};

/**
 * Ends a delivery for good and keeps it among the dead letters. Returns 1, or 0 if the lease was lost.
 *
 * KEYS: log, retry, dead. ARGV: see {@linkcode ONE}, 10 the failure as JSON.
 */
export const DEAD_LETTER: RedisScript = {
  name: "dead-letter",
  source: `${ONE}
redis.call('XADD', KEYS[3], '*', 'state', state(attempt, first, redrives), 'failure', ARGV[10], unpack(fields))
return close()`,
};
