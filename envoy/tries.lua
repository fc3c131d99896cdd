-- Slows down who tries keys, before each try costs a question to authz.
--
-- A try is a credential that authz refused. Each network of clients (an IPv4 address, the /64 of an IPv6 one) has a bucket
-- of tries; while it is empty, credentials from there that did not pass on this worker before are answered 429
-- (local_reply_config words it). What passed goes on passing, whoever shares its address. A question that has no answer
-- yet, and the same credential again within a minute, cost a part of a try: nobody gets round it by leaving before the
-- answer or by asking all at once, and a client with one wrong key does little harm to its neighbours.
--
-- It decides nothing: what it lets by is authz' to judge. It keeps 32 bits of a credential, never the credential.
-- All state is one worker's, so an Envoy of N workers lets N times as many tries by. Routes that do not ask authz have it off.
--
-- Part 1 is pure and is tested by itself (tests/unit/tries); part 2 is the glue to Envoy (tests/e2e/attacks).

local bit = require("bit")
local tobit, bxor, lshift, rshift = bit.tobit, bit.bxor, bit.lshift, bit.rshift
local byte, match, gmatch = string.byte, string.match, string.gmatch

local M = {}

M.BURST = 50 -- tries that a network may make at once
M.PER_SECOND = 5 -- tries that it gets back
M.PART = 1 / 16 -- of a try, for an open question and for the same credential again: 800 at once, 80 a second
M.SAME_SECONDS = 60 -- how long a refused credential is the same again
M.DEBT = 250 -- tries below nothing that a network may owe: what was asked at once is refused at once
M.MOST = 8192 -- of networks, and of credentials that passed or were refused; up to twice as many are remembered

------------------------------------------------------------------------------------------------------------------------
-- Part 1: pure
------------------------------------------------------------------------------------------------------------------------

-- A map that forgets what was not used while `most` others came. Two generations: who is asked for gets into the young one.
local Memory = {}
Memory.__index = Memory

function M.memory(most) return setmetatable({ young = {}, old = {}, count = 0, most = most }, Memory) end

function Memory:get(name)
  local value = self.young[name]
  if value ~= nil then return value end
  value = self.old[name]
  if value ~= nil then self:put(name, value) end
  return value
end

function Memory:put(name, value)
  if self.young[name] == nil then
    if self.count == self.most then
      self.old, self.young, self.count = self.young, {}, 0
    end
    self.count = self.count + 1
  end
  self.young[name] = value
end

function Memory:drop(name)
  if self.young[name] ~= nil then
    self.young[name] = nil
    self.count = self.count - 1
  end
  self.old[name] = nil
end

-- The network of an address as Envoy prints it, with its port.
function M.network(address)
  local inner = match(address, "^%[(.*)%]:%d+$")
  if not inner then return match(address, "^(.*):%d+$") or address end
  local head, tail = match(inner, "^(.-)::(.*)$")
  local groups = {}
  for group in gmatch(head or inner, "[^:]+") do groups[#groups + 1] = group end
  if head then
    local _, after = string.gsub(tail, "[^:]+", "")
    while #groups < 8 - after do groups[#groups + 1] = "0" end
    for group in gmatch(tail, "[^:]+") do groups[#groups + 1] = group end
  end
  return table.concat(groups, ":", 1, 4)
end

-- 32 bits of a credential (Jenkins, one at a time). `seed` is a worker's own: nobody outside can tell what is alike.
function M.digest(credential, seed)
  local hash = seed
  for at = 1, #credential do
    hash = tobit(hash + byte(credential, at))
    hash = tobit(hash + lshift(hash, 10))
    hash = bxor(hash, rshift(hash, 6))
  end
  hash = tobit(hash + lshift(hash, 3))
  hash = bxor(hash, rshift(hash, 11))
  return tobit(hash + lshift(hash, 15))
end

-- What one worker knows of credentials and networks. Times are whole seconds.
local Tries = {}
Tries.__index = Tries

function M.new()
  return setmetatable({ passed = M.memory(M.MOST), refused = M.memory(M.MOST), buckets = M.memory(M.MOST) }, Tries)
end

function Tries:_charge(network, tries, now)
  local bucket = self.buckets:get(network)
  if not bucket then
    bucket = { left = M.BURST, at = now }
    self.buckets:put(network, bucket)
  end
  local left = bucket.left + math.max(0, now - bucket.at) * M.PER_SECOND
  bucket.left = math.max(-M.DEBT, math.min(M.BURST, left) - tries)
  bucket.at = now
  return bucket.left
end

-- Whether a credential passed before. Asked first: of nearly every request this is all.
function Tries:has_passed(digest) return self.passed:get(digest) end

-- Whether authz may be asked about another credential. If so, one of the three below is called with the answer, if any.
function Tries:may_ask(network, now)
  if self:_charge(network, 0, now) < 1 then return false end
  self:_charge(network, M.PART, now)
  return true
end

function Tries:note_pass(network, digest, now)
  self.passed:put(digest, true)
  self:_charge(network, -M.PART, now)
end

function Tries:note_refusal(network, digest, now)
  local last = self.refused:get(digest)
  self.refused:put(digest, now)
  local is_same = last and now - last < M.SAME_SECONDS
  if not is_same then self:_charge(network, 1 - M.PART, now) end
end

-- Nobody judged it.
function Tries:note_nothing(network, now) self:_charge(network, -M.PART, now) end

-- A credential that passed does so no more.
function Tries:note_end(digest) self.passed:drop(digest) end

------------------------------------------------------------------------------------------------------------------------
-- Part 2: glue
------------------------------------------------------------------------------------------------------------------------

local tries = M.new()
local seed = tobit(os.time() + tonumber(match(tostring(tries), "0x(%x+)"), 16) % 2 ^ 32)

local OURS = "tollhouse.tries" -- the namespace in which a request that was asked about waits for the answer
local UNAUTHENTICATED = "16" -- of gRPC

-- As authz picks it (core/identity.credential_of), near enough. None at all is one like another.
local function digest_of(headers)
  return M.digest(headers:get("authorization") or headers:get("x-api-key") or "", seed)
end

local function network_of(handle) return M.network(handle:streamInfo():downstreamRemoteAddress()) end

function envoy_on_request(handle)
  local digest = digest_of(handle:headers())
  if tries:has_passed(digest) then return end
  local metadata = handle:streamInfo():dynamicMetadata()
  if tries:may_ask(network_of(handle), os.time()) then
    metadata:set(OURS, "digest", digest)
    return
  end
  metadata:set("tollhouse.refusal", "word", "tries")
  handle:respond({ [":status"] = "429", ["retry-after"] = "1" }, "")
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local asked = metadata:get(OURS)
  local headers = handle:headers()
  local is_refused = headers:get(":status") == "401" or headers:get("grpc-status") == UNAUTHENTICATED
  if not (asked or is_refused) then return end
  local is_known = metadata:get("envoy.filters.http.ext_authz") -- authz said who it is
  if not asked then
    if not is_known then tries:note_end(digest_of(handle:requestHeaders())) end
    return
  end
  local network, now = network_of(handle), os.time()
  if is_known then
    tries:note_pass(network, asked.digest, now)
  elseif is_refused then
    tries:note_refusal(network, asked.digest, now)
  else
    tries:note_nothing(network, now)
  end
end

return M
