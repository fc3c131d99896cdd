-- What the scripts of an exchange share; put in front of each of them.
--
-- An exchange is a string, TTLs in steps.py (R open, A abandoned, S and X closed):
--   R <units charged>\n<counts of the last beat, or nothing>\n<facts>
--   A <units charged>\n<counts of the record that was written>\n<facts>
--   S   settled: a record was written                 X   released: none ever will be
-- Counts: input output cached reasoning input-source output-source started first ended,
--   the last three in Unix ms, first 0 for never.
-- A bucket is a string "<used> <at>": grains used when it was last written (ms). Grains
--   are units x 60,000, so a rate per minute drains whole grains per ms: all numbers are
--   integers below 2^53 and nothing is ever rounded. No key: nothing is used.
--
-- KEYS of all scripts, for n scopes (key, tenant x model):
--   exchange, n x (requests bucket, units bucket), n x leases of the scope, all leases
-- In a cluster all are of one slot. Leases: sorted sets, score = when it ends (ms).
local GRAINS = 60000

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function read_exchange(stored)
  if not stored then
    return nil
  end
  local state, charged, counts, facts =
    string.match(stored, '^(%u) ?(%d*)\n?([%d ]*)\n?(.*)$')
  return state, tonumber(charged), counts, facts
end

-- What is still used of a bucket; a clock that went back drains nothing.
local function drained(stored, rate, now)
  if not stored then
    return 0
  end
  local used, at = string.match(stored, '^(%d+) (%d+)$')
  return math.max(0, used - rate * math.max(0, now - at))
end

-- Writes a bucket; it expires when time has drained it. Rate 0 is not known to us: an
-- hour, the next RESERVE knows it.
local function keep(key, used, rate, now)
  if used <= 0 then
    redis.call('DEL', key)
  else
    local ttl = rate > 0 and math.ceil(used / rate) or 3600000
    redis.call('SET', key, string.format('%.0f %.0f', used, now), 'PX', ttl)
  end
end

-- Refills, then charges (positive) or refunds (negative) the buckets `first`,
-- `first` + 2, … of all scopes: in the other order an overrun would be forgiven.
-- `rates` is the index of the first rate in ARGV, one per bucket, 0 for no such limit.
local function correct(first, scopes, amount, rates, now)
  if amount == 0 then
    return
  end
  for bucket = first, 2 * scopes, 2 do
    local rate = tonumber(ARGV[rates + bucket - 1])
    if rate > 0 then
      local key = KEYS[1 + bucket]
      local used = drained(redis.call('GET', key), rate, now)
      keep(key, used + amount * GRAINS, rate, now)
    end
  end
end

-- Puts the exchange's lease into every sorted set of leases.
local function lease(scopes, id, ends)
  ends = string.format('%.0f', ends) -- once, not in each call
  for index = 2 + 2 * scopes, 2 + 3 * scopes do
    redis.call('ZADD', KEYS[index], ends, id)
  end
end

local function drop_lease(scopes, id)
  for index = 2 + 2 * scopes, 2 + 3 * scopes do
    redis.call('ZREM', KEYS[index], id)
  end
end

local function units(input, output, cached, w_input, w_cached, w_output)
  cached = math.min(cached, input)
  return (input - cached) * w_input + cached * w_cached + output * w_output
end

local function read_counts(counts)
  local numbers = {}
  for number in string.gmatch(counts, '%d+') do
    numbers[#numbers + 1] = tonumber(number)
  end
  return numbers
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
