-- RESERVE: takes an estimate from every limit of the slot at once, or says which one has
-- no room. One in shadow keeps nobody out: without room it is left uncharged.
-- A further request of an open exchange is charged to what the exchange is charged to.
--
-- KEYS: as exchange.lua says
-- ARGV: id, lease ms, kept ms, units, money, from ms, until ms: when the budgets' periods
--   have begun and not ended; facts without the closing brace, which end in their debits
--   (a further request's have them); debits of the other slot, JSON, '' for none; tenant;
--   typical duration (ms, 0 for not known) and refund (units); 1 if it is held, which is
--   promised no room, or 0; which request of the exchange it is, from 1; per limit
--   measure, number, room (grains, exchanges, units or money; -1 nothing goes), 1 in shadow
--   or 0, its debit as JSON
-- Reply, levels as core/room.py says, one per limit:
--   {1, shadows without room as bits, levels after it…}   granted
--   {2, facts, levels…}                                granted before, nothing done
--   {0, limit, wait ms, -1 for never, levels…}         no room, nothing done
--   {-1}         the exchange is over, nothing may be reserved any more
--   {-2, now}    the budgets are of another period: nothing done, repeat with that time
local STRIDE = 5

local now = clock()
local id, units, money = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local limits = #KEYS - FIRST
local stored, state, had_units, had_money, beaten, facts, requests = read(limits)
local ordinal = tonumber(ARGV[14])
if state and state ~= 'R' then
  return { -1 }
elseif not state and (now < tonumber(ARGV[6]) or now >= tonumber(ARGV[7])) then
  return { -2, now }
end

-- What a limit without room is lacking; `huge`: it can't have it.
local huge = math.huge
local measures, numbers, costs, levels, lacking = {}, {}, {}, {}, {}
local shadows, never, refused, start = 0, nil, false, nil
for index = 1, limits do
  local at, key = 10 + STRIDE * index, FIRST + index
  local measure, number = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local room = tonumber(ARGV[at + 2])
  local cost, level, lacks = 1, 0, 0
  if measure < CONCURRENT then
    cost = (measure == REQUESTS and 1 or units) * GRAINS
    level = drained(stored[key], number, now)
    lacks = cost > room and huge or level + cost - room
  elseif measure == CONCURRENT then
    level = redis.call('ZCOUNT', KEYS[key], '(' .. now, '+inf')
    lacks = room < 0 and huge or level + 1 - room
  elseif measure == CAPACITY then
    local fits
    cost = units
    fits, level, start = fair_room(KEYS[key], ARGV[10], number, units, room)
    if not fits then
      lacks = room < 0 and huge or level + cost - room
    end
  else
    cost = measure >= MONEY and money or units
    level = tonumber(stored[key] or 0)
    lacks = level + cost > room and huge or 0
  end
  measures[index], numbers[index], costs[index], levels[index] = measure, number, cost, level
  if lacks > 0 then
    lacking[index] = lacks
    if ARGV[at + 3] == '1' then
      shadows = shadows + 2 ^ (index - 1)
    else
      refused = true
      never = never or lacks == huge and index or nil
    end
  end
end

-- The scope of a limit: a debit begins with it.
local function scope(index)
  return string.sub(ARGV[14 + STRIDE * index], 2, 2)
end

-- When the limit at `index` should have room.
local function due(index)
  local key, duration = KEYS[FIRST + index], tonumber(ARGV[11])
  local promised = wait_promised(KEYS[3], key)
  local lacks, cost, measure = lacking[index], costs[index], measures[index]
  if measure == CONCURRENT then
    local running, oldest = wait_open(key, now)
    return wait_place(now, promised, running, oldest, duration)
  elseif measure == CAPACITY then
    return wait_capacity(now, promised, lacks, cost, levels[index], duration)
  end
  local running, oldest, refund = 0, 0, 0
  if measure ~= REQUESTS then
    refund = ARGV[12] * GRAINS
    for other = 1, limits do
      if measures[other] == CONCURRENT and scope(other) == scope(index) then
        running, oldest = wait_open(KEYS[FIRST + other], now)
      end
    end
  end
  return wait_bucket(now, promised, lacks, cost, numbers[index],
    running, oldest, duration, refund)
end

if state and ordinal <= requests then
  return { 2, facts, unpack(levels) }
elseif never then
  return { 0, never, -1, unpack(levels) }
elseif refused then
  local binding, latest = 0, 0
  for index = 1, limits do
    if lacking[index] and ARGV[13 + STRIDE * index] == '0' then
      local at = due(index)
      if ARGV[13] == '0' then
        wait_promise(KEYS[3], KEYS[FIRST + index], at, now)
      end
      if at > latest then
        binding, latest = index, at
      end
    end
  end
  return { 0, binding, latest - now, unpack(levels) }
end

local debits = { ARGV[9] ~= '' and ARGV[9] or nil }
local ends = string.format('%.0f', now + ARGV[2])
for index, measure in ipairs(measures) do
  if not lacking[index] or ordinal > 1 then
    local key, level = KEYS[FIRST + index], levels[index] + costs[index]
    levels[index] = level
    if measure == CONCURRENT then
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      redis.call('ZADD', key, ends, id)
    elseif measure < CONCURRENT and costs[index] > 0 then
      keep(key, level, numbers[index], now)
    elseif measure == CAPACITY then
      fair_change(key, ARGV[10], numbers[index], units, units, start)
    elseif costs[index] > 0 then
      spend(key, level, numbers[index], now)
    end
    debits[#debits + 1] = ARGV[14 + STRIDE * index]
  end
end
redis.call('ZADD', KEYS[2], ends, id)
local told = '}'
if #debits > 0 and ordinal == 1 then
  told = ',"debits":[' .. table.concat(debits, ',') .. ']}'
end
write('R', (had_units or 0) + units, (had_money or 0) + money, beaten or '',
  ARGV[8] .. told, ARGV[3], ordinal)
return { 1, shadows, unpack(levels) }
