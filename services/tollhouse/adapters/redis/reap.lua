-- REAP: a lease ran out, whoever served the exchange is gone. Writes its last beat's
-- counts, or the input estimate and no output, as an ABANDONED record. Buckets and budgets
-- keep what they have; a SETTLE that still comes corrects them and the record.
--
-- KEYS: as exchange.lua says, then for a tenant outbox, settled sums of the hour
-- ARGV: id, kept ms, when the id was made (ms), input estimate, hour, '' for the fleet,
--   which writes no record; model, tenant, limits
-- Reply: 1 reaped · 0 not open, or its lease was extended · -h as SETTLE
local now = clock()
local id, hour = ARGV[1], tonumber(ARGV[5])
local measures, numbers = read_limits(8)
local _, state, units, money, beaten, facts = read(#measures)
if state ~= 'R' then
  drop_lease(measures, id)
  return 0
end
local ends = redis.call('ZSCORE', KEYS[2], id)
if ends and tonumber(ends) > now then
  return 0
end
local created = tonumber(ARGV[3])
local counts = read_counts(beaten)
if #counts == 0 then
  counts = { tonumber(ARGV[4]), 0, 0, 0, 3, 3, created, 0, created }
end
counts[9] = clamp(counts[9], created, now)
local of_hour = math.floor(counts[9] / 3600000)
if hour and of_hour ~= hour then
  return -of_hour
end

write('A', units, money, write_counts(counts), facts, ARGV[2])
if hour then -- first, as in SETTLE
  record(id, 3, counts, '', facts, ARGV[6])
end
drop_lease(measures, id)
change_flight(measures, numbers, ARGV[7], -units, 0)
return 1
