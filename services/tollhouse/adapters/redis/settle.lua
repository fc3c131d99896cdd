-- SETTLE: an admitted exchange ended. Refunds or charges the difference to what was
-- reserved, frees its lease and writes its usage record (transactional outbox).
--
-- KEYS: as exchange.lua says, then for a tenant outbox, settled sums of the hour
-- ARGV: id, closed ms, facts, hour, '' for the fleet, which writes no record; model, kind,
--   flags, when the id was made (ms), restore ms, tenant, weights and prices (input, cached,
--   output each), counts (9 as exchange.lua says), limits
-- Reply: 1 settled · 2 it was before, nothing done · -h the record belongs to hour h:
--   nothing done, repeat with that hour and its sums
--
-- Where the reservation is lost (or was released) the whole use is charged; nothing, when
-- it is lost and ended longer than `restore ms` ago, as when an old ledger is replayed.
-- After REAP the record is an adjustment: signed differences, in the hour of the record it
-- corrects.
local now = clock()
local id, hour = ARGV[1], tonumber(ARGV[4])
local measures, numbers = read_limits(26)
local stored, state, units, money, recorded = read(#measures)
if state == 'S' then
  return 2
end
local counts = told_counts(17)
local used_units, used_money = weigh(counts, 11), weigh(counts, 14)
local reaped = state == 'A' and read_counts(recorded)
counts[9] = reaped and reaped[9] or clamp(counts[9], tonumber(ARGV[8]), now)
local of_hour = math.floor(counts[9] / 3600000)
if hour and of_hour ~= hour then
  return -of_hour
end

-- The record first: a limit's key that somebody broke ends the script, and costs no bill.
redis.call('SET', KEYS[1], 'S', 'PX', ARGV[2])
if hour and not reaped then
  record(id, ARGV[6], counts, ARGV[7], ARGV[3], ARGV[5])
elseif hour then
  local differs = false
  for index = 1, 4 do
    counts[index] = counts[index] - reaped[index]
    differs = differs or counts[index] ~= 0
  end
  if differs then
    record(id .. '#adj', 4, counts, ARGV[7], ARGV[3], ARGV[5], id)
  end
end
if state or now - counts[9] <= tonumber(ARGV[9]) then
  local more = used_units - (units or 0)
  correct(stored, measures, numbers, 0, more, used_money - (money or 0), now,
    state and 0 or now - counts[9])
  change_flight(measures, numbers, ARGV[10], state == 'R' and -units or 0, more)
end
drop_lease(measures, id)
return 1
