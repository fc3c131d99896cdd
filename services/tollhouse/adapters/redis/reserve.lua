-- RESERVE: takes an estimate from every limit at once, or says which one has no room.
--
-- KEYS: as exchange.lua says
-- ARGV: id, lease ms, kept ms, facts, units; per bucket rate a minute and capacity in
--   grains, both '' for no such limit; per scope most exchanges at once, or ''
-- Reply: {verdict, limit, wait ms, used grains per bucket…, exchanges per scope…}
--   1 granted (used and exchanges are those after it; also when repeated: nothing is
--   taken twice) · 0 refused by bucket `limit`, or scope `limit` - buckets; wait -1 can
--   never fit · -1 the exchange is over, nothing may be reserved any more
local CONCURRENT_WAIT = 1000

local now = clock()
local id, cost = ARGV[1], tonumber(ARGV[5])
local scopes = (#KEYS - 2) / 3
local buckets = 2 * scopes
local stored = redis.call('MGET', unpack(KEYS, 1, 1 + buckets))
local state = read_exchange(stored[1])
if state and state ~= 'R' then
  return { -1 }
end

local used, rates, costs, counted = {}, {}, {}, {}
local longest, limit = 0, 0
for bucket = 1, buckets do
  local rate, capacity = tonumber(ARGV[4 + 2 * bucket]), tonumber(ARGV[5 + 2 * bucket])
  used[bucket] = 0
  if rate then
    rates[bucket] = rate
    costs[bucket] = (bucket % 2 == 1 and 1 or cost) * GRAINS
    used[bucket] = drained(stored[1 + bucket], rate, now)
    local missing = used[bucket] + costs[bucket] - capacity
    if costs[bucket] > capacity then
      missing, rate = math.huge, 1
    end
    if missing > 0 and missing / rate > longest then
      longest, limit = math.ceil(missing / rate), bucket
    end
  end
end
for scope = 1, scopes do
  local most = tonumber(ARGV[5 + 2 * buckets + scope])
  counted[scope] = 0
  if most then
    counted[scope] = redis.call('ZCOUNT', KEYS[1 + buckets + scope], '(' .. now, '+inf')
    local wait = most == 0 and math.huge or CONCURRENT_WAIT
    if counted[scope] >= most and wait > longest then
      longest, limit = wait, buckets + scope
    end
  end
end

local verdict = 1
if not state then
  if limit > 0 then
    verdict = 0
  else
    redis.call('SET', KEYS[1], 'R ' .. ARGV[5] .. '\n\n' .. ARGV[4], 'PX', ARGV[3])
    for bucket, rate in pairs(rates) do
      used[bucket] = used[bucket] + costs[bucket]
      keep(KEYS[1 + bucket], used[bucket], rate, now)
    end
    for scope = 1, scopes do
      redis.call('ZREMRANGEBYSCORE', KEYS[1 + buckets + scope], '-inf', now)
      counted[scope] = counted[scope] + 1
    end
    lease(scopes, id, now + ARGV[2])
  end
end

local reply = { verdict, limit, longest < math.huge and longest or -1 }
for bucket = 1, buckets do
  reply[#reply + 1] = used[bucket]
end
for scope = 1, scopes do
  reply[#reply + 1] = counted[scope]
end
return reply
