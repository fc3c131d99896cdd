-- RELEASE: an exchange was never admitted. Gives back all it reserved and leaves a
-- tombstone, so that a RESERVE that comes late is refused. No record.
--
-- KEYS: as exchange.lua says, with no scopes when the caller knows of no reservation
-- ARGV: id, closed ms, rate per bucket
-- Reply: 1 released, also when it was before · 0 it was settled, nothing done · 2 it was
--   reaped: settle it with zero counts · 3 there is a reservation: repeat with its scopes
local now = clock()
local scopes = (#KEYS - 2) / 3
local state, charged = read_exchange(redis.call('GET', KEYS[1]))
if state == 'S' then
  return 0
elseif state == 'A' then
  return 2
elseif state == 'R' then
  if scopes == 0 then
    return 3
  end
  correct(1, scopes, -1, 3, now)
  correct(2, scopes, -charged, 3, now)
end
drop_lease(scopes, ARGV[1])
redis.call('SET', KEYS[1], 'X', 'PX', ARGV[2])
return 1
