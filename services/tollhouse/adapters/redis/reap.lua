-- REAP: a lease ran out, whoever served the exchange is gone. Writes its last beat's
-- counts, or the input estimate and no output, as an ABANDONED record. The limits keep
-- what they have; a SETTLE that still comes corrects both.
--
-- KEYS: as exchange.lua says, then outbox, settled sums of the hour
-- ARGV: id, kept ms, when the id was made (ms), input estimate, hour, model
-- Reply: 1 reaped · 0 not open, or its lease was extended · -h as SETTLE
local now = clock()
local id = ARGV[1]
local scopes = (#KEYS - 4) / 3
local leases = KEYS[#KEYS - 2]
local state, charged, stored, facts = read_exchange(redis.call('GET', KEYS[1]))
if state ~= 'R' then
  drop_lease(scopes, id)
  return 0
end
local ends = redis.call('ZSCORE', leases, id)
if ends and tonumber(ends) > now then
  return 0
end
local created = tonumber(ARGV[3])
local counts = read_counts(stored)
if #counts == 0 then
  counts = { tonumber(ARGV[4]), 0, 0, 0, 3, 3, created, 0, created }
end
counts[9] = clamp(counts[9], created, now)
local hour = math.floor(counts[9] / 3600000)
if hour ~= tonumber(ARGV[5]) then
  return -hour
end

redis.call('SET', KEYS[1],
  string.format('A %.0f\n', charged) .. write_counts(counts) .. '\n' .. facts, 'PX', ARGV[2])
drop_lease(scopes, id)
record(id, 3, counts, '', facts, ARGV[6])
return 1
