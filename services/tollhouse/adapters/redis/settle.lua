-- SETTLE: an admitted exchange ended. Refunds or charges the difference to what was
-- reserved, frees its lease and writes its usage record (transactional outbox).
--
-- KEYS: as exchange.lua says, then outbox, settled sums of the hour
-- ARGV: id, closed ms, facts, weights (input, cached, output), counts (9 as exchange.lua
--   says), kind, flags, when the id was made (ms), restore ms, hour, model, rate per
--   bucket
-- Reply: 1 settled · 2 it was before, nothing done · -h the record belongs to hour h:
--   nothing done, repeat with that hour and its sums
--
-- Where the reservation is lost (or was released) the whole use is charged; nothing, when
-- it is lost and ended longer than `restore ms` ago, as when an old ledger is replayed.
-- After REAP the record is an adjustment: signed differences, in the hour of the record it
-- corrects.
local now = clock()
local id = ARGV[1]
local scopes = (#KEYS - 4) / 3
local state, charged, stored = read_exchange(redis.call('GET', KEYS[1]))
if state == 'S' then
  return 2
end
local counts = {}
for index = 1, 9 do
  counts[index] = tonumber(ARGV[6 + index])
end
local used = units(counts[1], counts[2], counts[3], ARGV[4], ARGV[5], ARGV[6])
local recorded = state == 'A' and read_counts(stored)
counts[9] = recorded and recorded[9] or clamp(counts[9], tonumber(ARGV[18]), now)
local hour = math.floor(counts[9] / 3600000)
if hour ~= tonumber(ARGV[20]) then
  return -hour
end

redis.call('SET', KEYS[1], 'S', 'PX', ARGV[2])
if state or now - counts[9] <= tonumber(ARGV[19]) then
  correct(2, scopes, used - (charged or 0), 22, now)
end
drop_lease(scopes, id)
if not recorded then
  record(id, ARGV[16], counts, ARGV[17], ARGV[3], ARGV[21])
  return 1
end
local differs = false
for index = 1, 4 do
  counts[index] = counts[index] - recorded[index]
  differs = differs or counts[index] ~= 0
end
if differs then
  record(id .. '#adj', 4, counts, ARGV[17], ARGV[3], ARGV[21], id)
end
return 1
