-- LEARN: adds what exchanges taught to one cohort, and sums it up for readers.
--
-- A cohort is a hash:
--   output:weights, duration:weights   JSON array, by bin (core/histogram.py)
--   output, duration                   "<samples> <bin of the median> <bin of P90>"
--   text, refund                       "<samples> <part> <whole>", a ratio of sums
--
-- KEYS: the cohort
-- ARGV: kept ms, ratios; per ratio name, samples, part, whole; per bin histogram, bin (from
--   0), samples, samples of values that are at least so large
-- Reply: 1
local MOST_SAMPLES = 2000
local WEIGHT = 16

local cohort = KEYS[1]
local bins = 3 + 4 * ARGV[2]
local fields = {}

local function write(field, text)
  fields[#fields + 1] = field
  fields[#fields + 1] = text
end

local function write_numbers(field, ...)
  write(field, string.format('%.0f %.0f %.0f', ...))
end

local function total(weights)
  local sum = 0
  for bin = 1, #weights do
    sum = sum + weights[bin]
  end
  return sum
end

-- The bin, from 1, that so many percent of the samples reach.
local function quantile(weights, sum, percent)
  local reached = 0
  for bin = 1, #weights do
    reached = reached + weights[bin]
    if reached * 100 >= sum * percent then
      return bin
    end
  end
end

-- Adds one column of the bins in ARGV from bin `least` on.
local function add(weights, name, column, least)
  for at = bins, #ARGV, 4 do
    local bin = ARGV[at + 1] + 1
    local count = tonumber(ARGV[at + column])
    if ARGV[at] == name and count > 0 and bin >= least then
      for empty = #weights + 1, bin do
        weights[empty] = 0
      end
      weights[bin] = weights[bin] + count * WEIGHT
    end
  end
end

local function learn(name)
  local stored = redis.call('HGET', cohort, name .. ':weights')
  local weights = stored and cjson.decode(stored) or {}
  -- The whole ones first: what is cut is measured against all that is known by then.
  add(weights, name, 2, 0)
  local sum = total(weights)
  if sum == 0 then
    return
  end
  add(weights, name, 3, quantile(weights, sum, 90))
  sum = total(weights)
  while sum > MOST_SAMPLES * WEIGHT do
    for bin = 1, #weights do
      weights[bin] = math.floor(weights[bin] / 2)
    end
    sum = total(weights)
  end
  write(name .. ':weights', cjson.encode(weights))
  write_numbers(name, math.floor(sum / WEIGHT),
    quantile(weights, sum, 50) - 1, quantile(weights, sum, 90) - 1)
end

local taught = {}
for at = bins, #ARGV, 4 do
  taught[ARGV[at]] = true
end
for name in pairs(taught) do
  learn(name)
end

for at = 3, bins - 1, 4 do
  local numbers = { tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]) }
  local known = redis.call('HGET', cohort, ARGV[at])
  local place = 0
  for number in string.gmatch(known or '', '%d+') do
    place = place + 1
    numbers[place] = numbers[place] + number
  end
  while numbers[1] > MOST_SAMPLES do
    for index = 1, 3 do
      numbers[index] = math.floor(numbers[index] / 2)
    end
  end
  write_numbers(ARGV[at], unpack(numbers))
end

if #fields > 0 then
  redis.call('HSET', cohort, unpack(fields))
end
redis.call('PEXPIRE', cohort, ARGV[1])
return 1
