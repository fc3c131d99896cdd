-- UNPARK: what an operator decides about a refused record, and the note of who did.
--
--   retry     back into its outbox: the relay carries it once more
--   discard   never to be billed; the note keeps the record, for it was settled
--
-- KEYS: parked stream, outbox stream, audit stream; in slot {s<k>}
-- ARGV: entry id, action, now (Unix seconds), who, why
-- Reply: 1 done, 0 it is not there any more
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then
  return 0
end
local fields, noted = {}, {}
for at = 1, #entry[2], 2 do
  local name, value = entry[2][at], entry[2][at + 1]
  noted[#noted + 1], noted[#noted + 2] = name, value
  if name ~= 'reason' then
    fields[#fields + 1], fields[#fields + 2] = name, value
  end
end
if ARGV[2] == 'retry' then
  redis.call('XADD', KEYS[2], '*', unpack(fields))
end
redis.call('XADD', KEYS[3], '*', 'at', ARGV[3], 'action', ARGV[2], 'who', ARGV[4],
  'why', ARGV[5], unpack(noted))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
