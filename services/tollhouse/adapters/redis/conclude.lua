-- CONCLUDE: writes what became of an open chunk, decided by core/chunk.py.
--
-- KEYS: chunk, open and parked zsets, window; in slot {b<k>}
-- ARGV: chunk id, attempts and verify_at the decision rests on, now, when to look again
--   (Unix seconds), how long a sent chunk is kept (seconds), seq; state, doubt_at,
--   doubted, verify_at, absent_at, reason
-- Reply: 1 written, 0 the chunk is another than the one decided about: decide again
local chunk = redis.call('HMGET', KEYS[1], 'state', 'attempts', 'verify_at', 'value')
if chunk[1] ~= 'open' or chunk[2] ~= ARGV[2] or chunk[3] ~= ARGV[3] then
  return 0
end
local state = ARGV[8]
redis.call('HSET', KEYS[1], 'state', state, 'doubt_at', ARGV[9], 'doubted', ARGV[10],
  'verify_at', ARGV[11], 'absent_at', ARGV[12], 'reason', ARGV[13])
if state == 'open' then
  redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
  return 1
end
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[4], 'open') == ARGV[7] then
  redis.call('HDEL', KEYS[4], 'open')
end
if state == 'sent' then
  redis.call('HINCRBY', KEYS[4], 'accepted', chunk[4])
  redis.call('EXPIRE', KEYS[1], ARGV[6])
else
  redis.call('HINCRBY', KEYS[4], 'parked', chunk[4])
  redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
end
return 1
