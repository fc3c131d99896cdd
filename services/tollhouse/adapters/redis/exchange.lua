-- What the scripts of an exchange share; put in front of each of them.
--
-- An exchange is a string, TTLs in steps.py (R open, A abandoned, S and X closed):
--   R <units> <money> <requests, where more than one>\n<counts of the last beat, or
--     nothing>\n<facts>
--   A <units> <money>\n<counts of the record that was written>\n<facts>
--   S   settled: a record was written                 X   released: none ever will be
-- Units and money: what its limits were charged. Counts: input output cached reasoning
--   input-source output-source started first ended, the last three in Unix ms, first 0
--   for never.
-- Limits, by measure (core/limits.py):
--   1, 2  bucket of requests, units: a string "<used> <at>": grains used when it was
--         last written (ms). Grains are units x 60,000, so a rate per minute drains whole
--         grains per ms: all numbers are integers below 2^53 and nothing is ever rounded.
--   3     exchanges at once: a sorted set of leases, score = when the lease ends (ms)
--   4, 5  budget of units, 6, 7 of money, in a day or month: a string, what is spent
--   8     units in flight: a hash, see fairness.lua
--   A limit whose key is missing is unused.
--
-- KEYS of all scripts: exchange, all leases (sorted set), promises (hash, see waits.lua),
--   then one per limit. In a cluster all are of one slot: a tenant's, or the fleet's.
-- ARGV ends with the limits, where not told otherwise a pair each: measure; number, which
--   is the refill a minute of a bucket, when a budget is forgotten (ms), the tenant's
--   weight in a capacity, else 0.
local GRAINS = 60000
local REQUESTS, CONCURRENT, MONEY, CAPACITY = 1, 3, 6, 8
local FIRST = 3 -- the keys before those of the limits
local LONGEST = 2592000000 -- 30 days: what drains no earlier is forgotten

-- Reads all keys of the run that are strings, and what the exchange was charged.
local function read(limits)
  local stored = redis.call('MGET', unpack(KEYS, 1, FIRST + limits))
  if not stored[1] then
    return stored
  end
  local state, units, money, requests, counts, facts =
    string.match(stored[1], '^(%u) ?(%d*) ?(%d*) ?(%d*)\n?([%d ]*)\n?(.*)$')
  return stored, state, tonumber(units), tonumber(money), counts, facts,
    tonumber(requests) or 1
end

local function write(state, units, money, counts, facts, kept, requests)
  local more = requests and requests > 1 and string.format(' %.0f', requests) or ''
  redis.call('SET', KEYS[1],
    string.format('%s %.0f %.0f%s\n%s\n%s', state, units, money, more, counts, facts),
    'PX', kept)
end

-- Measures and numbers of the limits, whose pairs start at ARGV[first].
local function read_limits(first)
  local measures, numbers = {}, {}
  for index = first, #ARGV, 2 do
    measures[#measures + 1] = tonumber(ARGV[index])
    numbers[#numbers + 1] = tonumber(ARGV[index + 1])
  end
  return measures, numbers
end

-- What is still used of a bucket; a clock that went back drains nothing.
local function drained(stored, rate, now)
  if not stored then
    return 0
  end
  local used, at = string.match(stored, '^(%d+) (%d+)$')
  return math.max(0, used - rate * math.max(0, now - at))
end

-- Writes a bucket; it expires when time has drained it.
local function keep(key, used, rate, now)
  if used <= 0 then
    redis.call('DEL', key)
  else
    local ttl = math.min(math.ceil(used / rate), LONGEST)
    redis.call('SET', key, string.format('%.0f %.0f', used, now), 'PX', lasting(ttl))
  end
end

-- Writes a budget; it is forgotten some days after its period.
local function spend(key, spent, forgotten, now)
  if spent <= 0 then
    redis.call('DEL', key)
  elseif forgotten > now then
    redis.call('SET', key, string.format('%.0f', spent), 'PX', lasting(forgotten - now))
  end
end

-- Charges (positive) or refunds (negative) buckets and budgets. Buckets are drained up to
-- now first: in the other order an overrun would be forgiven. Of what Redis hears of `late`
-- ms after it was used, time has drained its part: else who used its limit while Redis was
-- away would be refused for as long again.
local function correct(stored, measures, numbers, requests, units, money, now, late)
  for index, measure in ipairs(measures) do
    local key, number = FIRST + index, numbers[index]
    if measure < CONCURRENT then
      local amount = (measure == REQUESTS and requests or units) * GRAINS
      if amount > 0 then
        amount = math.max(0, amount - number * late)
      end
      if amount ~= 0 then
        keep(KEYS[key], drained(stored[key], number, now) + amount, number, now)
      end
    elseif measure > CONCURRENT and measure < CAPACITY then
      local amount = measure >= MONEY and money or units
      if amount ~= 0 then
        spend(KEYS[key], (tonumber(stored[key] or 0)) + amount, number, now)
      end
    end
  end
end

-- Adds to a tenant's units in flight and to what it was given, or takes back.
local function change_flight(measures, numbers, tenant, held, served)
  for index, measure in ipairs(measures) do
    if measure == CAPACITY then
      fair_change(KEYS[FIRST + index], tenant, numbers[index], held, served)
    end
  end
end

-- Puts the exchange's lease into every sorted set of leases.
local function lease(measures, id, ends)
  ends = string.format('%.0f', ends) -- once, not in each call
  redis.call('ZADD', KEYS[2], ends, id)
  for index, measure in ipairs(measures) do
    if measure == CONCURRENT then
      redis.call('ZADD', KEYS[FIRST + index], ends, id)
    end
  end
end

local function drop_lease(measures, id)
  redis.call('ZREM', KEYS[2], id)
  for index, measure in ipairs(measures) do
    if measure == CONCURRENT then
      redis.call('ZREM', KEYS[FIRST + index], id)
    end
  end
end

-- Tokens weighed by type; the three weights, or prices, start at ARGV[first].
local function weigh(counts, first)
  local cached = math.min(counts[3], counts[1])
  return (counts[1] - cached) * ARGV[first] + cached * ARGV[first + 1]
    + counts[2] * ARGV[first + 2]
end

local function read_counts(text)
  local counts = {}
  for number in string.gmatch(text, '%d+') do
    counts[#counts + 1] = tonumber(number)
  end
  return counts
end

-- The nine counts that start at ARGV[first].
local function told_counts(first)
  local counts = {}
  for index = 1, 9 do
    counts[index] = tonumber(ARGV[first + index - 1])
  end
  return counts
end

local function write_counts(counts)
  return string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f', unpack(counts))
end

-- When the exchange ended: not before its id was made, not after now.
local function clamp(ended, created, now)
  return math.min(math.max(ended, created), now)
end

-- Writes a usage record to the outbox and adds it to the tenant's sums of its hour, the
-- left side of the reconciliation. KEYS: …, outbox, settled sums of the hour.
local function record(id, kind, counts, flags, facts, model, corrects)
  local outbox, settled = KEYS[#KEYS - 1], KEYS[#KEYS]
  redis.call('XADD', outbox, '*', 'id', id, 'kind', kind, 'in', counts[1],
    'out', counts[2], 'cached', counts[3], 'reasoning', counts[4],
    'in_src', counts[5], 'out_src', counts[6], 'started_ms', counts[7],
    'first_ms', counts[8], 'ended_ms', counts[9], 'flags', flags, 'facts', facts,
    unpack(corrects and { 'corrects', corrects } or {}))
  for index, name in ipairs({ '|input', '|output', '|cached_input', '|reasoning' }) do
    if counts[index] ~= 0 then
      redis.call('HINCRBY', settled, model .. name, counts[index])
    end
  end
  if not corrects then
    redis.call('HINCRBY', settled, model .. '|exchanges', 1)
  end
  redis.call('EXPIRE', settled, 3456000)
end
