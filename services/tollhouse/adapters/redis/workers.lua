-- A worker's sign of life.
--
-- KEYS: workers (sorted set: worker -> its last sign of life, Redis time in ms)
-- ARGV: this worker, for how long one sign counts (ms)
-- Reply: the workers alive, this one among them
local now = clock()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
