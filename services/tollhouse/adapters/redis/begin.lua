-- BEGIN: notes an attempt to send a chunk, before it is made.
--
-- KEYS: chunk, open zset; in slot {b<k>}
-- ARGV: chunk id, attempts that are known, now (Unix seconds), when to look again if
--   nobody concludes
-- Reply: 1 noted, 0 the chunk is not open or another shipper began one meanwhile
local chunk = redis.call('HMGET', KEYS[1], 'state', 'attempts', 'doubt_at')
if chunk[1] ~= 'open' or chunk[2] ~= ARGV[2] then
  return 0
end
local number = tonumber(ARGV[2]) + 1
redis.call('HSET', KEYS[1], 'attempts', number, 'begun_at', ARGV[3])
if chunk[3] == '0' then
  redis.call('HSET', KEYS[1], 'doubt_at', ARGV[3], 'doubted', number)
end
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
return 1
