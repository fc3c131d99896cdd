-- FORGET: drops the seen sets up to an hour, and refuses records of these hours from now on.
--
-- One script, because a set that is dropped before its hour is closed would let a record
-- in a second time.
--
-- KEYS: the closed hour, the zset of seen hours, the seen sets to drop; in slot {b<k>}
-- ARGV: the hour, the hours of the sets
-- Reply: the closed hour
local hour = math.max(tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[1]) or -1))
redis.call('SET', KEYS[1], string.format('%.0f', hour))
for set = 3, #KEYS do
  if tonumber(ARGV[set - 1]) <= hour then
    redis.call('UNLINK', KEYS[set])
    redis.call('ZREM', KEYS[2], ARGV[set - 1])
  end
end
return hour
