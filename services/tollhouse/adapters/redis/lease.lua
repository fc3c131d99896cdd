-- LEASE: takes or keeps a lease, if nobody else has it.
--
-- KEYS: lease
-- ARGV: who asks, for how long (ms); 0 gives it back
-- Reply: 1 it is the caller's, 0 it is not
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
