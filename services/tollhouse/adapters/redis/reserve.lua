-- RESERVE: takes an estimate from every limit of the slot at once, or says which one has
-- no room. One in shadow keeps nobody out: without room it is left uncharged.
--
-- KEYS: as exchange.lua says
-- ARGV: id, lease ms, kept ms, units, money, from ms, until ms: when the budgets' periods
--   have begun and not ended; facts without the closing brace, which end in their debits;
--   debits of the other slot, JSON, '' for none; tenant; per limit measure, number, room (grains,
--   exchanges, units or money; -1 nothing goes), 1 in shadow or 0, its debit as JSON
-- Reply, levels as core/room.py says, one per limit:
--   {1, uncharged shadows as bits, levels after it…}   granted
--   {2, facts, levels…}                                granted before, nothing done
--   {0, limit, wait ms, -1 for never, levels…}         no room, nothing done
--   {-1}         the exchange is over, nothing may be reserved any more
--   {-2, now}    the budgets are of another period: nothing done, repeat with that time
local BUSY_WAIT = 1000
local STRIDE = 5

local now = clock()
local id, units, money = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local limits = #KEYS - FIRST
local stored, state, _, _, _, facts = read(limits)
if state and state ~= 'R' then
  return { -1 }
elseif not state and (now < tonumber(ARGV[6]) or now >= tonumber(ARGV[7])) then
  return { -2, now }
end

local measures, numbers, costs, levels, full = {}, {}, {}, {}, {}
local longest, binding, shadows, start = 0, 0, 0, nil
for index = 1, limits do
  local at = 6 + STRIDE * index
  local measure, number = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local room, key = tonumber(ARGV[at + 2]), FIRST + index
  local cost, level, wait = 1, 0, 0
  if measure < CONCURRENT then
    cost = (measure == REQUESTS and 1 or units) * GRAINS
    level = drained(stored[key], number, now)
    local missing = level + cost - room
    if missing > 0 then
      wait = cost > room and math.huge or math.ceil(missing / number)
    end
  elseif measure == CONCURRENT then
    level = redis.call('ZCOUNT', KEYS[key], '(' .. now, '+inf')
    if level >= room then
      wait = room > 0 and BUSY_WAIT or math.huge
    end
  elseif measure == CAPACITY then
    local fits
    cost = units
    fits, level, start = fair_room(KEYS[key], ARGV[10], number, units, room)
    if not fits then
      wait = room > 0 and BUSY_WAIT or math.huge
    end
  else
    cost = measure >= MONEY and money or units
    level = tonumber(stored[key] or 0)
    if level + cost > room then
      wait = math.huge
    end
  end
  measures[index], numbers[index], costs[index], levels[index] = measure, number, cost, level
  if wait > 0 and ARGV[at + 3] == '1' then
    full[index] = true
    shadows = shadows + 2 ^ (index - 1)
  elseif wait > longest then
    longest, binding = wait, index
  end
end

if state then
  return { 2, facts, unpack(levels) }
elseif binding > 0 then
  return { 0, binding, longest < math.huge and longest or -1, unpack(levels) }
end

local debits = { ARGV[9] ~= '' and ARGV[9] or nil }
local ends = string.format('%.0f', now + ARGV[2])
for index, measure in ipairs(measures) do
  if not full[index] then
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
    debits[#debits + 1] = ARGV[10 + STRIDE * index]
  end
end
redis.call('ZADD', KEYS[2], ends, id)
local told = #debits > 0 and ',"debits":[' .. table.concat(debits, ',') .. ']}' or '}'
write('R', units, money, '', ARGV[8] .. told, ARGV[3])
return { 1, shadows, unpack(levels) }
