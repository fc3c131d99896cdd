-- BEAT: an exchange still runs. Extends its lease, keeps its counts, charges what exceeds
-- the reservation. A late repeat of an older beat changes no count.
--
-- KEYS: as exchange.lua says
-- ARGV: id, lease ms, kept ms, facts, tenant, restore ms, weights and prices (input, cached,
--   output each), counts (9 as exchange.lua says; ended: when the beat was written), limits
-- Reply: 1, or 0 when the exchange is not open: SETTLE will sort it out
--
-- An exchange Redis has lost is opened again, so that it still counts and is reaped if
-- nobody settles it; unless the beat is older than `restore ms`, which is less than what
-- a settled exchange is remembered for.
-- One that was reaped while its settler was away, but runs, takes its place among the
-- exchanges at once again; the rest SETTLE corrects.
local ESTIMATE = 3
local now = clock()
local id = ARGV[1]
local measures, numbers = read_limits(22)
local stored, state, units, money, beaten, facts, requests = read(#measures)
local counts = told_counts(13)
if not state and now - counts[9] <= tonumber(ARGV[6]) then
  units, money, beaten, facts = 0, 0, '', ARGV[4]
elseif state == 'A' then
  if now - counts[9] < tonumber(ARGV[2]) then
    lease(measures, id, now + ARGV[2])
  end
  return 0
elseif state ~= 'R' then
  return 0
end

local old = read_counts(beaten)
if old[9] then
  -- Counts only grow, told in any order; but an estimate of the input ends where somebody
  -- has counted it.
  local input, cached, source = math.max(counts[1], old[1]), math.max(counts[3], old[3])
  if (counts[5] == ESTIMATE) ~= (old[5] == ESTIMATE) then
    local counted = counts[5] == ESTIMATE and old or counts
    input, cached, source = counted[1], counted[3], counted[5]
  end
  counts[2], counts[4] = math.max(counts[2], old[2]), math.max(counts[4], old[4])
  if old[9] > counts[9] then
    for index = 5, 9 do
      counts[index] = old[index]
    end
  end
  counts[1], counts[3], counts[5] = input, cached, source or counts[5]
end
local more_units = math.max(0, weigh(counts, 7) - units)
local more_money = math.max(0, weigh(counts, 10) - money)
write('R', units + more_units, money + more_money, write_counts(counts), facts, ARGV[3],
  requests)
correct(stored, measures, numbers, 0, more_units, more_money, now,
  state and 0 or math.max(0, now - counts[9]))
change_flight(measures, numbers, ARGV[5], more_units, more_units)
lease(measures, id, now + ARGV[2])
return 1
