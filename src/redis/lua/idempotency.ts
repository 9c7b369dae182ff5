/**
 * Scripts of idempotency keys. A key is a hash: `print` fingerprint, `epoch`, `until` end of its lease in milliseconds
 * by the server's clock, and `result` once it is done. It expires by itself.
 *
 * KEYS of all: the key, the counter of epochs, the stream of keys that ended.
 *
 * @module
 */
import type { RedisScript } from "../../ports/redis.ts";

const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)`;

/** Tells who waits for this key that something changed. About a thousand such notes are kept. */
const ENDED = `redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 'key', KEYS[1])`;

/**
 * Claims the key. ARGV: fingerprint, lease in ms, how long a dead claim outlives its lease in ms. Returns
 * `{ "started", epoch }`, `{ "done", result }`, `{ "running", id of the last note }` or `{ "mismatch" }`.
 */
export const BEGIN: RedisScript = {
  name: "idempotency-begin",
  source: `${NOW}
local print, till, result = unpack(redis.call('HMGET', KEYS[1], 'print', 'until', 'result'))
if print then
  if print ~= ARGV[1] then return { 'mismatch' } end
  if result then return { 'done', result } end
  if tonumber(till) > now then
    local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
    return { 'running', last and last[1] or '0-0' }
  end
end
local epoch = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], 'print', ARGV[1], 'epoch', epoch, 'until', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + ARGV[3]))
return { 'started', epoch }`,
};

/** Prolongs a claim. ARGV: epoch, lease in ms, how long a dead claim outlives its lease in ms. Returns 1, or 0 if it was lost. */
export const RENEW: RedisScript = {
  name: "idempotency-renew",
  source: `${NOW}
local epoch, result = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'result'))
if epoch ~= ARGV[1] or result then return 0 end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + ARGV[3]))
return 1`,
};

/** Keeps the result; a second time changes only how long. ARGV: epoch, result, time to keep it in ms. Returns 1, or 0 if the claim was lost. */
export const COMPLETE: RedisScript = {
  name: "idempotency-complete",
  source: `
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('HSETNX', KEYS[1], 'result', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
${ENDED}
return 1`,
};

/** Frees the key, unless it is done. ARGV: epoch. */
export const ABANDON: RedisScript = {
  name: "idempotency-abandon",
  source: `
local epoch, result = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'result'))
if epoch ~= ARGV[1] or result then return 0 end
redis.call('DEL', KEYS[1])
${ENDED}
return 1`,
};
