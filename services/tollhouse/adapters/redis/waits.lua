-- When a refused exchange should find room; put in front of RESERVE, which asks only when
-- it refuses. core/waits.py is its twin and says why it is so.
--
-- The promises: a hash, field per limit (the name of its key), value: up to when (ms) its
-- room is promised to those refused before. It expires with the latest promise.
--
-- For each limit without room that may have some (not a budget, not one in shadow, not
-- what never fits), with promised = wait_promised(promises, key):
--   requests bucket  due = wait_bucket(now, promised, missing, cost, rate, 0, 0, 0, 0)
--   units bucket     due = wait_bucket(now, promised, missing, cost, rate,
--                                      running, oldest, duration, refund)
--                    in grains, and grains a ms; running, oldest = wait_open(leases of the
--                    same scope, now), or 0, 0 where it has none: refill only
--   exchanges        due = wait_place(now, promised, running, oldest, duration)
--                    running, oldest = wait_open(key, now)
--   capacity         due = wait_capacity(now, promised, missing, cost, in_flight, duration)
--                    in units, missing = in_flight + cost - capacity
-- and, refused in the end, wait_promise(promises, key, due, now) for each. Times are whole
-- ms, duration 0: not known. Needs `lasting` of clock.lua.
local WAIT_LONGEST = 60000
local WAIT_LEDGER = 250
local WAIT_UNKNOWN = 1000
local WAIT_LOOKED_AT = 128
local WAIT_FIELDS = 128

-- How many leases of a sorted set run, and when the oldest exchange of (at most 128 of)
-- them was made: its id, a version 7 UUID, begins with that, so the least is the oldest.
local function wait_open(leases, now)
  local alive = '(' .. string.format('%.0f', now)
  local ids = redis.call('ZRANGEBYSCORE', leases, alive, '+inf',
    'LIMIT', 0, WAIT_LOOKED_AT)
  local running = #ids
  if running == 0 then
    return 0, now
  elseif running == WAIT_LOOKED_AT then
    running = redis.call('ZCOUNT', leases, alive, '+inf')
  end
  local oldest = ids[1]
  for index = 2, #ids do
    if ids[index] < oldest then
      oldest = ids[index]
    end
  end
  return running, tonumber(string.sub(oldest, 1, 8) .. string.sub(oldest, 10, 13), 16)
end

local function wait_gap(running, duration)
  return math.max(1, math.floor(2 * duration / math.max(1, running)))
end

local function wait_first(now, running, oldest, duration)
  local ends = oldest + duration + WAIT_LEDGER
  if ends > now then
    return ends
  end
  return now + math.min(duration, 3 * wait_gap(running, duration))
end

local function wait_place(now, promised, running, oldest, duration)
  if duration == 0 then
    duration = WAIT_UNKNOWN
  end
  local due = wait_first(now, running, oldest, duration)
  if promised > now then
    due = math.max(due, promised + wait_gap(running, duration))
  end
  return math.min(due, now + WAIT_LONGEST)
end

local function wait_bucket(now, promised, missing, cost, rate, running, oldest, duration,
                           refund)
  local latest = math.max(now + WAIT_LONGEST, now + math.ceil(missing / rate))
  local from, need = now, missing
  if promised > now then
    from, need = promised, cost
  end
  local due = from + math.ceil(need / rate)
  if refund > 0 and running > 0 and duration > 0 then
    local first = math.max(from, wait_first(now, running, oldest, duration))
    local rest = need - rate * (first - from)
    if rest > 0 then
      due = first + math.ceil(rest / (rate + refund / wait_gap(running, duration)))
    end
  end
  return math.min(due, latest)
end

local function wait_capacity(now, promised, missing, cost, in_flight, duration)
  if duration == 0 then
    duration = WAIT_UNKNOWN
  end
  local from, need = now, missing
  if promised > now then
    from, need = promised, cost
  end
  local due = from + math.ceil(2 * duration * math.min(need, in_flight) / in_flight)
  return math.min(due, now + WAIT_LONGEST)
end

local function wait_promised(promises, key)
  return tonumber(redis.call('HGET', promises, key) or 0)
end

-- Keeps a promise; past ones go whenever the fields reach another multiple of 128.
local function wait_promise(promises, key, due, now)
  local is_new = redis.call('HSET', promises, key, string.format('%.0f', due)) == 1
  if is_new and redis.call('HLEN', promises) % WAIT_FIELDS == 0 then
    local fields, past = redis.call('HGETALL', promises), {}
    for at = 1, #fields, 2 do
      if tonumber(fields[at + 1]) <= now then
        past[#past + 1] = fields[at]
      end
    end
    for at = 1, #past, 1000 do -- unpack has its limit
      redis.call('HDEL', promises, unpack(past, at, math.min(at + 999, #past)))
    end
  end
  local ttl = lasting(due - now)
  if redis.call('PTTL', promises) < ttl then
    redis.call('PEXPIRE', promises, ttl)
  end
end
