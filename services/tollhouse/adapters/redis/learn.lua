-- LEARN: adds what exchanges taught to one level, and sums it up for readers.
--
-- A level is a hash:
--   output:<edge>, duration:<edge>   bins of its histograms (core/histogram.py)
--   output, duration                 "<samples> <median> <P90>"
--   text, refund                     "<samples> <part> <whole>", a ratio of sums
--
-- KEYS: the level
-- ARGV: kept ms, ratios; per ratio name, samples, part, whole; per bin histogram, upper
--   edge, samples, samples of values that are at least so large
-- Reply: 1
local MOST_SAMPLES = 2000
local WEIGHT = 16

local level = KEYS[1]
local ratios = tonumber(ARGV[2])
local bins = { output = {}, duration = {} }
local stored = redis.call('HGETALL', level)
for index = 1, #stored, 2 do
  local histogram, edge = string.match(stored[index], '^(%a+):(%d+)$')
  if edge then
    bins[histogram][tonumber(edge)] = tonumber(stored[index + 1])
  end
end

local function total(histogram)
  local sum = 0
  for _, weight in pairs(histogram) do
    sum = sum + weight
  end
  return sum
end

-- Upper edges of the bins that so many percent of the samples reach.
local function quantiles(histogram, ...)
  local edges, found, sum = {}, {}, total(histogram)
  for edge in pairs(histogram) do
    edges[#edges + 1] = edge
  end
  table.sort(edges)
  for index, percent in ipairs({ ... }) do
    local reached = 0
    for _, edge in ipairs(edges) do
      reached = reached + histogram[edge]
      if reached * 100 >= sum * percent then
        found[index] = edge
        break
      end
    end
  end
  return unpack(found)
end

-- Adds one column of the bins in ARGV; `least` is the lowest edge it takes.
local touched = {}
local function add(column, least)
  for at = 3 + 4 * ratios, #ARGV, 4 do
    local name, edge = ARGV[at], tonumber(ARGV[at + 1])
    local count = tonumber(ARGV[at + column])
    if count > 0 and least[name] and edge >= least[name] then
      bins[name][edge] = (bins[name][edge] or 0) + count * WEIGHT
      touched[name] = touched[name] or {}
      touched[name][edge] = true
    end
  end
end

-- The whole ones first: what is cut is measured against all that is known by then.
add(2, { output = 0, duration = 0 })
add(3, { output = quantiles(bins.output, 90), duration = quantiles(bins.duration, 90) })

local fields = {}
local function write(field, text, ...)
  fields[#fields + 1] = field
  fields[#fields + 1] = string.format(text, ...)
end

for name, edges in pairs(touched) do
  local histogram = bins[name]
  while total(histogram) > MOST_SAMPLES * WEIGHT do
    for edge, weight in pairs(histogram) do
      histogram[edge] = math.floor(weight / 2)
      edges[edge] = true
    end
  end
  for edge in pairs(edges) do
    local field = name .. ':' .. edge
    if histogram[edge] > 0 then
      write(field, '%.0f', histogram[edge])
    else
      histogram[edge] = nil
      redis.call('HDEL', level, field)
    end
  end
  local median, high = quantiles(histogram, 50, 90)
  write(name, '%.0f %.0f %.0f', math.floor(total(histogram) / WEIGHT), median, high)
end

for at = 3, 2 + 4 * ratios, 4 do
  local numbers = { tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]) }
  local known = redis.call('HGET', level, ARGV[at])
  local index = 0
  for number in string.gmatch(known or '', '%d+') do
    index = index + 1
    numbers[index] = numbers[index] + number
  end
  while numbers[1] > MOST_SAMPLES do
    for place = 1, 3 do
      numbers[place] = math.floor(numbers[place] / 2)
    end
  end
  write(ARGV[at], '%.0f %.0f %.0f', unpack(numbers))
end

if #fields > 0 then
  redis.call('HSET', level, unpack(fields))
end
redis.call('PEXPIRE', level, ARGV[1])
return 1
