-- REJECT: the provider says afterwards that it did not count a chunk: parks it.
--
-- KEYS: chunk, open and parked zsets, window; in slot {b<k>}
-- ARGV: chunk id, now (Unix seconds), code, seq
-- Reply: 1 parked, 0 it was neither open nor sent
local chunk = redis.call('HMGET', KEYS[1], 'state', 'value')
if chunk[1] == 'sent' then
  redis.call('HINCRBY', KEYS[4], 'accepted',
    string.format('%.0f', -tonumber(chunk[2])))
elseif chunk[1] ~= 'open' then
  return 0
end
redis.call('HSET', KEYS[1], 'state', 'parked', 'doubt_at', 0, 'doubted', 0,
  'verify_at', 0, 'reason', ARGV[3])
redis.call('PERSIST', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[4], 'open') == ARGV[4] then
  redis.call('HDEL', KEYS[4], 'open')
end
redis.call('HINCRBY', KEYS[4], 'parked', chunk[2])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
return 1
