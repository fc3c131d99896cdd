-- RESOLVE: what an operator decides about a parked chunk, and the note of who did.
--
--   retry     the same bytes again, under the same identifier; what the provider was
--             being asked about, it is asked about first
--   reseal    takes it back into its window, to be frozen anew with the customer of then
--   discard   never to be billed
--   settle    the provider has so many tokens of it, found out by whoever decides: these
--             are sent, the rest goes back into its window and is frozen anew
--
-- KEYS: chunk, open, parked and unsealed zsets, window, audit stream; in slot {b<k>}
-- ARGV: chunk id, action, now (Unix seconds), row name, who, why, for how long a chunk
--   that is over is kept, for how long an identifier is relied on (seconds), tokens
--   that the provider has (of settle alone, else 0)
-- Reply: 1 done, 0 it is not parked, -1 in doubt: a reseal could bill it twice
local chunk = redis.call('HMGET', KEYS[1], 'state', 'value', 'doubt_at', 'reason',
  'verify_at')
if chunk[1] ~= 'parked' then
  return 0
end
local action, value = ARGV[2], chunk[2]
local back = string.format('%.0f', -tonumber(value))
if action == 'reseal' and chunk[3] ~= '0' then
  return -1
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HINCRBY', KEYS[5], 'parked', back)
local note = {'at', ARGV[3], 'action', action, 'chunk', ARGV[1], 'value', value, 'was',
  chunk[4], 'who', ARGV[5], 'why', ARGV[6]}
if action == 'retry' then
  -- Sent now it would be a duplicate once more, which proves no delivery: the provider
  -- has said so before, and did not count it.
  local verify_at = 0
  if chunk[5] ~= '0' and ARGV[3] - chunk[3] <= tonumber(ARGV[8]) then
    verify_at = ARGV[3]
  end
  redis.call('HSET', KEYS[1], 'state', 'open', 'verify_at', verify_at, 'reason', '')
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
elseif action == 'settle' then
  -- From now on it is worth what the provider has: sums of what was sent rest on that.
  local rest = tonumber(value) - tonumber(ARGV[9])
  redis.call('HSET', KEYS[1], 'state', 'sent', 'value', ARGV[9], 'doubt_at', 0,
    'doubted', 0, 'verify_at', 0, 'reason', 'settled')
  redis.call('EXPIRE', KEYS[1], ARGV[7])
  redis.call('HINCRBY', KEYS[5], 'accepted', ARGV[9])
  if rest ~= 0 then
    redis.call('HINCRBY', KEYS[5], 'sealed', string.format('%.0f', -rest))
    redis.call('ZADD', KEYS[4], ARGV[3], ARGV[4])
  end
  note[#note + 1] = 'tokens'
  note[#note + 1] = ARGV[9]
else
  redis.call('HSET', KEYS[1], 'state', 'discarded', 'reason', action)
  redis.call('EXPIRE', KEYS[1], ARGV[7])
  if action == 'reseal' then
    redis.call('HINCRBY', KEYS[5], 'sealed', back)
    redis.call('ZADD', KEYS[4], ARGV[3], ARGV[4])
  else
    redis.call('HINCRBY', KEYS[5], 'discarded', value)
  end
end
redis.call('XADD', KEYS[6], '*', unpack(note))
return 1
