-- Slows down who tries keys, before each try costs a question to authz.
--
-- A try is a credential that authz refused, and had not refused in the last minute. Each network of clients (an IPv4
-- address, the /64 of an IPv6 one) has a bucket of tries; while it is empty, credentials from there that this worker has
-- not seen pass are answered 429 (local_reply_config words it). What passed before goes on passing, whoever shares its
-- address, and so do those who send one bad key over and over: they try nothing new, and authz remembers it.
--
-- It decides nothing: what it lets by is authz' to judge. It keeps 32 bits of a credential, never the credential.
-- All state is one worker's, so an Envoy of N workers lets N times as many tries by.
--
-- Part 1 is pure and is tested by itself (tests/unit/tries); part 2 is the glue to Envoy (tests/e2e/attacks).

local bit = require("bit")
local tobit, bxor, lshift, rshift = bit.tobit, bit.bxor, bit.lshift, bit.rshift
local byte, find, match, gmatch = string.byte, string.find, string.match, string.gmatch

local M = {}

M.BURST = 50 -- tries that a network may make at once
M.PER_SECOND = 5 -- tries that it gets back
M.SAME_SECONDS = 60 -- for so long a refused credential is no further try
M.MOST = 8192 -- of networks, and of credentials that passed or were refused; up to twice as many are remembered
local HASHED = 48 -- bytes at the end of a credential: a key's secret, a JWT's signature

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
  for at = math.max(1, #credential - HASHED + 1), #credential do
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

local function refill(bucket, now)
  bucket.left = math.min(M.BURST, bucket.left + math.max(0, now - bucket.at) * M.PER_SECOND)
  bucket.at = now
end

-- Whether a credential passed before. Asked first: of nearly every request this is all.
function Tries:has_passed(digest) return self.passed:get(digest) end

-- Whether authz may be asked about another. It counts as passed until `note_refusal`.
function Tries:may_ask(network, digest, now)
  local bucket = self.buckets:get(network)
  if bucket then
    refill(bucket, now)
    if bucket.left < 1 then return false end
  end
  self.passed:put(digest, true)
  return true
end

function Tries:note_refusal(network, digest, now)
  self.passed:drop(digest)
  local last = self.refused:get(digest)
  self.refused:put(digest, now)
  if last and now - last < M.SAME_SECONDS then return end
  local bucket = self.buckets:get(network)
  if not bucket then
    bucket = { left = M.BURST, at = now }
    self.buckets:put(network, bucket)
  end
  refill(bucket, now)
  bucket.left = math.max(0, bucket.left - 1)
end

------------------------------------------------------------------------------------------------------------------------
-- Part 2: glue
------------------------------------------------------------------------------------------------------------------------

local tries = M.new()
local seed = tobit(os.time() + tonumber(match(tostring(tries), "0x(%x+)"), 16) % 2 ^ 32)

-- As authz picks it (core/identity.credential_of), near enough: another's is unknown here, nothing worse.
local function digest_of(headers)
  local credential = headers:get("authorization") or headers:get("x-api-key")
  return credential and M.digest(credential, seed)
end

local function network_of(handle) return M.network(handle:streamInfo():downstreamRemoteAddress()) end

function envoy_on_request(handle)
  local digest = digest_of(handle:headers())
  if not digest or tries:has_passed(digest) then return end
  if tries:may_ask(network_of(handle), digest, os.time()) then return end
  handle:streamInfo():dynamicMetadata():set("tollhouse.refusal", "word", "tries")
  handle:respond({ [":status"] = "429", ["retry-after"] = "1" }, "")
end

local UNAUTHENTICATED = "16" -- of gRPC

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") ~= "401" and headers:get("grpc-status") ~= UNAUTHENTICATED then return end
  if handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz") then return end -- authz knew who it is
  local digest = digest_of(handle:requestHeaders())
  if digest then tries:note_refusal(network_of(handle), digest, os.time()) end
end

return M
