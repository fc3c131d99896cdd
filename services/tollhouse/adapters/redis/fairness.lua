-- Fair sharing of a model's capacity among tenants; put in front of the scripts that
-- reserve and settle. core/fairness.py is its twin and says why it is so.
--
-- One hash a model: field per tenant with units in flight "<units> <counter> <weight>",
-- field '*', which no tenant is called, "<units> <weights> <largest counter>": both in sum,
-- and so a refusal costs the same however many tenants there are. A tenant with nothing in
-- flight has no field. Counters are units * FAIR_SCALE / weight, rounded down; all numbers
-- are integers below 2^53, for years of a million units a second.
--
-- RESERVE   fits, in_flight, counter = fair_room(key, tenant, weight, units, capacity)
--           and when every limit has room:
--           fair_change(key, tenant, weight, units, units, counter)
-- BEAT      fair_change(key, tenant, weight, grown, grown)
-- SETTLE    fair_change(key, tenant, weight, -charged, used - charged)
-- RELEASE   fair_change(key, tenant, weight, -charged, -charged)
-- REAP      fair_change(key, tenant, weight, -charged, 0)
-- SETTLE of a reaped one: fair_change(key, tenant, weight, 0, used - charged)
local FAIR_SCALE = 60

local function fair_numbers(stored)
  if not stored then
    return nil
  end
  local first, second, third = string.match(stored, '^(%d+) (%d+) (%d+)$')
  return tonumber(first), tonumber(second), tonumber(third)
end

-- The largest counter, where the tenant that had it went back.
local function fair_largest(key)
  local fields, largest = redis.call('HGETALL', key), 0
  for at = 1, #fields, 2 do
    if fields[at] ~= '*' then
      local _, counter = fair_numbers(fields[at + 1])
      largest = math.max(largest, counter)
    end
  end
  return largest
end

-- Whether `cost` units may enter, the units in flight now, and the counter the tenant
-- starts from when they do. Writes nothing.
local function fair_room(key, tenant, weight, cost, capacity)
  local stored = redis.call('HMGET', key, '*', tenant)
  local in_flight, weights, largest = fair_numbers(stored[1])
  local held, counter, old = fair_numbers(stored[2])
  in_flight, held, counter = in_flight or 0, held or 0, counter or 0
  if in_flight + cost <= capacity or in_flight == 0 then
    return capacity > 0, in_flight, counter
  end
  weights = weights - (old or 0) + weight
  if in_flight + cost <= 2 * capacity and (held + cost) * weights <= capacity * weight then
    return true, in_flight, counter
  end
  if (in_flight - capacity) * 8 > capacity then
    return false, in_flight, counter
  end
  counter = math.max(counter, largest - math.floor(capacity * FAIR_SCALE / weights))
  local over, behind = in_flight - capacity, largest - counter
  return behind > 0 and (over <= 0 or in_flight + cost <= 2 * capacity
    and over * FAIR_SCALE <= behind * weight), in_flight, counter
end

-- Adds `held` to the tenant's units in flight and `served` to what it was given, both
-- negative to take back, never below nothing. `weight` is the one of a RESERVE; an
-- exchange that is under way keeps the stored one. `counter` is fair_room's, else nil.
local function fair_change(key, tenant, weight, held, served, counter)
  local stored = redis.call('HMGET', key, '*', tenant)
  local in_flight, weights, largest = fair_numbers(stored[1])
  local before, reached, old = fair_numbers(stored[2])
  local after = math.max(0, (before or 0) + held)
  if not before and after == 0 then
    return
  end
  in_flight = (in_flight or 0) + after - (before or 0)
  weights, largest = (weights or 0) - (old or 0), largest or 0
  local was_largest, now_reached = reached == largest, 0
  if after > 0 then
    if not counter then
      weight = old or weight
    end
    local given = math.floor(served * FAIR_SCALE / weight)
    now_reached = math.max(0, (counter or reached or 0) + given)
    weights = weights + weight
    redis.call('HSET', key, tenant,
      string.format('%.0f %.0f %.0f', after, now_reached, weight))
  elseif in_flight == 0 then
    redis.call('DEL', key)
    return
  else
    redis.call('HDEL', key, tenant)
  end
  if now_reached >= largest then
    largest = now_reached
  elseif was_largest then
    largest = fair_largest(key)
  end
  redis.call('HSET', key, '*',
    string.format('%.0f %.0f %.0f', in_flight, weights, largest))
end
