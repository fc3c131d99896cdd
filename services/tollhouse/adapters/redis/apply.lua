-- APPLY: adds a batch of usage records to their hourly windows, each record id once.
--
-- One script, because the mark "seen", the sums and the note that they are to be sealed
-- must not part: a crash between them would lose the record or bill it twice.
--
-- KEYS: tenants, rows and unsealed zsets, the closed hour, the zset of seen hours; S seen
--   sets; then five per row (tenant, model, hour): the exchanges hash, the window hashes
--   uncached_input, cached_input, output, reasoning; all in slot {b<k>}
-- ARGV: S, R; the hours of the seen sets; per row: tenant, row name, when it is to be
--   sealed (Unix seconds); per record: seen number, row number, 16-byte id, kind,
--   uncached input, cached input, output and reasoning tokens, traceparent if sampled
-- Reply: one letter per record, in order: A applied, D duplicate, O too old
local FIXED = 5
local sets, rows = tonumber(ARGV[1]), tonumber(ARGV[2])
local closed_hour = tonumber(redis.call('GET', KEYS[4]) or -1)
local KINDS = {'final', 'partial', 'abandoned', 'adjustments'}

local closed = {}
for set = 1, sets do
  closed[set] = tonumber(ARGV[2 + set]) <= closed_hour
end

-- Sums first, so that a batch writes each window once: less to log and to fsync.
local answer, sums, counts, kinds, touched, traces = {}, {}, {}, {}, {}, {}
for at = 3 + sets + 3 * rows, #ARGV, 9 do
  local set, row = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  if closed[set] then
    answer[#answer + 1] = 'O'
  elseif redis.call('SADD', KEYS[FIXED + set], ARGV[at + 2]) == 0 then
    answer[#answer + 1] = 'D'
  else
    answer[#answer + 1] = 'A'
    touched[set] = true
    local kind = tonumber(ARGV[at + 3])
    kinds[row] = kinds[row] or {0, 0, 0, 0}
    kinds[row][kind] = kinds[row][kind] + 1
    for series = 1, 4 do
      local quantity = tonumber(ARGV[at + 3 + series])
      if quantity ~= 0 then
        local window = FIXED + sets + 5 * (row - 1) + 1 + series
        sums[window] = (sums[window] or 0) + quantity
        counts[window] = (counts[window] or 0) + 1
        if ARGV[at + 8] ~= '' then
          traces[window] = traces[window] or ARGV[at + 8]
        end
      end
    end
  end
end

for set in pairs(touched) do
  redis.call('ZADD', KEYS[5], ARGV[2 + set], ARGV[2 + set])
end
for row, numbers in pairs(kinds) do
  local named = 2 + sets + 3 * (row - 1)
  redis.call('ZADD', KEYS[1], 0, ARGV[named + 1])
  redis.call('ZADD', KEYS[2], 0, ARGV[named + 2])
  redis.call('ZADD', KEYS[3], 'NX', ARGV[named + 3], ARGV[named + 2])
  for kind = 1, 4 do
    if numbers[kind] > 0 then
      local exchanges = KEYS[FIXED + sets + 5 * (row - 1) + 1]
      redis.call('HINCRBY', exchanges, KINDS[kind], numbers[kind])
    end
  end
end
for window, sum in pairs(sums) do
  redis.call('HINCRBY', KEYS[window], 'total', sum)
  redis.call('HINCRBY', KEYS[window], 'n', counts[window])
end
-- The first stays until it is sealed: one write a chunk, however many are sampled.
for window, trace in pairs(traces) do
  if not redis.call('HGET', KEYS[window], 'trace') then
    redis.call('HSET', KEYS[window], 'trace', trace)
  end
end
return table.concat(answer)
