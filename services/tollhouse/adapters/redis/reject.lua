-- REJECT: the provider says afterwards that it did not count an attempt at a chunk.
--
-- KEYS: chunk, open and parked zsets, window; in slot {b<k>}
-- ARGV: chunk id, state and attempts the decision rests on, now (Unix seconds), seq; the
--   state that follows (parked, or open to be looked up), its verify_at and reason
-- Reply: 1 written, 0 the chunk is another than the one decided about: decide again
local chunk = redis.call('HMGET', KEYS[1], 'state', 'attempts', 'value')
if chunk[1] ~= ARGV[2] or chunk[2] ~= ARGV[3] then
  return 0
end
if chunk[1] == 'sent' then
  redis.call('HINCRBY', KEYS[4], 'accepted',
    string.format('%.0f', -tonumber(chunk[3])))
end
redis.call('HSET', KEYS[1], 'state', ARGV[6], 'verify_at', ARGV[7], 'reason', ARGV[8])
redis.call('PERSIST', KEYS[1])
if ARGV[6] == 'open' then
  redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
  return 1
end
redis.call('HSET', KEYS[1], 'doubt_at', 0, 'doubted', 0)
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[4], 'open') == ARGV[5] then
  redis.call('HDEL', KEYS[4], 'open')
end
redis.call('HINCRBY', KEYS[4], 'parked', chunk[3])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
return 1
