-- The time, and for how long keys last; in front of every script of an exchange. In a
-- file of its own: whoever moves time itself (tests, the simulation) brings another.

-- Unix ms of Redis.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What a key's TTL is in Redis' own time.
local function lasting(ms)
  return ms
end
