-- BEAT: an exchange still runs. Extends its lease, keeps its counts, charges the units
-- that exceed what is reserved. A late repeat of an older beat changes no count.
--
-- KEYS: as exchange.lua says
-- ARGV: id, lease ms, kept ms, facts, weights (input, cached, output), counts (9 as
--   exchange.lua says; ended: when the beat was written), restore ms, rate per bucket
-- Reply: 1, or 0 when the exchange is not open: SETTLE will sort it out
--
-- An exchange Redis has lost is opened again, so that it still counts and is reaped if
-- nobody settles it; unless the beat is older than `restore ms`, which is less than what
-- a settled exchange is remembered for.
local now = clock()
local id = ARGV[1]
local scopes = (#KEYS - 2) / 3
local state, charged, stored, facts = read_exchange(redis.call('GET', KEYS[1]))
local counts = {}
for index = 1, 9 do
  counts[index] = tonumber(ARGV[7 + index])
end
if not state and now - counts[9] <= tonumber(ARGV[17]) then
  charged, stored, facts = 0, '', ARGV[4]
elseif state ~= 'R' then
  return 0
end

local old = read_counts(stored)
for index = 1, 4 do
  counts[index] = math.max(counts[index], old[index] or 0)
end
if old[9] and old[9] > counts[9] then
  for index = 5, 9 do
    counts[index] = old[index]
  end
end
local grown = math.max(charged,
  units(counts[1], counts[2], counts[3], ARGV[5], ARGV[6], ARGV[7]))
redis.call('SET', KEYS[1],
  string.format('R %.0f\n', grown) .. write_counts(counts) .. '\n' .. facts, 'PX', ARGV[3])
correct(2, scopes, grown - charged, 18, now)
lease(scopes, id, now + ARGV[2])
return 1
