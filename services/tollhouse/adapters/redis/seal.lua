-- SEAL: freezes what the windows of a row have not shipped yet into immutable chunks.
--
-- Before any call to the provider, and all that a chunk sends is fixed here: were it
-- worked out again for a second attempt, that could send something else.
--
-- KEYS: unsealed and open zsets; per window: its hash, its next chunk, the entry that
--   leads from the chunk's identifier to it; all in slot {b<k>}
-- ARGV: row name, now and when the row is to be sealed next (Unix seconds), for how long
--   an identifier is known (seconds); per window: window name, seq, timestamp,
--   identifier, event name, provider, customer
-- Reply: one letter per window: S sealed, N nothing to seal, O its last chunk is open,
--   R another was faster: read again
local FIXED, STEP = 4, 7
local answer, rest = {}, false
for at = FIXED + 1, #ARGV, STEP do
  local key = 3 + 3 * ((at - FIXED - 1) / STEP)
  local window = redis.call('HMGET', KEYS[key], 'total', 'sealed', 'seq', 'open',
    'trace')
  local total, sealed = tonumber(window[1] or 0), tonumber(window[2] or 0)
  local seq = tonumber(ARGV[at + 1])
  local letter = 'N'
  if total ~= sealed then
    letter = 'S'
    if window[4] then
      letter = 'O'
    elseif tonumber(window[3] or 0) + 1 ~= seq then
      letter = 'R'
    else
      local id = ARGV[at] .. '|' .. seq
      redis.call('HSET', KEYS[key], 'sealed', string.format('%.0f', total), 'seq', seq,
        'open', seq)
      redis.call('HSET', KEYS[key + 1], 'value', string.format('%.0f', total - sealed),
        'timestamp', ARGV[at + 2], 'identifier', ARGV[at + 3], 'event_name', ARGV[at + 4],
        'provider', ARGV[at + 5], 'customer', ARGV[at + 6], 'state', 'open',
        'attempts', 0, 'doubt_at', 0, 'doubted', 0, 'begun_at', 0, 'verify_at', 0,
        'absent_at', 0, 'reason', '', 'sealed_at', ARGV[2])
      if window[5] then
        redis.call('HSET', KEYS[key + 1], 'trace', window[5])
        redis.call('HDEL', KEYS[key], 'trace')
      end
      redis.call('SET', KEYS[key + 2], id, 'EX', ARGV[4])
      redis.call('ZADD', KEYS[2], ARGV[2], id)
    end
  end
  rest = rest or letter == 'O' or letter == 'R'
  answer[#answer + 1] = letter
end
if rest or #answer == 0 then
  redis.call('ZADD', KEYS[1], 'XX', ARGV[3], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return table.concat(answer)
