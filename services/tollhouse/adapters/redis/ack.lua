-- ACK: forgets outbox entries that the aggregator has, and parks those it refused.
--
-- XACK and XDEL must be one script: as two commands, a kill between them leaves an
-- acknowledged entry in the stream for ever. Parking copies the whole entry first.
--
-- KEYS: outbox stream, parked stream; in slot {s<k>}
-- ARGV: consumer group, number of refused entries; per refused entry: id, reason; then
--   the ids of the acknowledged ones
-- Reply: how many entries left the outbox; fewer than given when a relay was faster
local group, acknowledged = ARGV[1], 3 + 2 * tonumber(ARGV[2])
local ids = {unpack(ARGV, acknowledged)}
for at = 3, acknowledged - 1, 2 do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at])[1]
  if entry then
    local fields = entry[2]
    fields[#fields + 1] = 'reason'
    fields[#fields + 1] = ARGV[at + 1]
    redis.call('XADD', KEYS[2], '*', unpack(fields))
  end
  ids[#ids + 1] = ARGV[at]
end
redis.call('XACK', KEYS[1], group, unpack(ids))
return redis.call('XDEL', KEYS[1], unpack(ids))
