-- RELEASE: an exchange was never admitted. Gives back all it reserved and leaves a
-- tombstone for some time, so that a RESERVE that comes late is refused. No record.
--
-- KEYS: as exchange.lua says
-- ARGV: id, ms the tombstone stays, 0 for none; tenant, '' where the caller knows of no
--   limits; limits
-- Reply: 1 released, also when it was before · 0 it was settled, nothing done · 2 it was
--   reaped: settle it with zero counts · 3 there is a reservation: repeat with its limits
local now = clock()
local measures, numbers = read_limits(4)
local stored, state, units, money, _, _, requests = read(#measures)
if state == 'S' then
  return 0
elseif state == 'A' then
  return 2
elseif state == 'R' then
  if ARGV[3] == '' then
    return 3
  end
  correct(stored, measures, numbers, -requests, -units, -money, now, 0)
  change_flight(measures, numbers, ARGV[3], -units, -units)
end
drop_lease(measures, ARGV[1])
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], 'X', 'PX', ARGV[2])
end
return 1
