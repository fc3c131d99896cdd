-- The meter of Triton's gRPC: ModelInfer and ModelStreamInfer, read as they pass (meter.lua has the string it writes).
--
-- It reads the messages' structure byte by byte, in memory that does not depend on their size: per response the tensors
-- `num_input_tokens` and `num_output_tokens`, the length of its text, the id of its request. Outputs add up. The input
-- of a request is the largest said under its id; it ends with the parameter `triton_final_response`. Where one of the
-- counts was no INT32 of its shape, the sum would be too small: it is not said.
--
-- It changes three things only. A message with `error_message` gets our words; so does the `grpc-message` of a status
-- that is not OK; and where the namespace `tollhouse.refusal` says so (a further request of the stream was refused), an
-- OK becomes that status. Of a message the first bytes are held until they say whether it is an error, at most six; nothing else is.
--
-- Its flags: F all messages were whole and the status OK · B an error in a message, or another status · X compressed
--
-- The route says which of the two it is: `filter_context: { stream: true }`.
-- Protocol: KServe's Open Inference Protocol, grpc_predict_v2.proto, with Triton's ModelStreamInfer (grpc_service.proto).

local byte, char, concat, find, lower, sub = string.byte, string.char, table.concat, string.find, string.lower, string.sub
local floor, max, min = math.floor, math.max, math.min

local M = {}

local MAX_FIELD = 256     -- bytes of a name, an id, a shape, a parameter, the counts of a batch that are looked at
local MAX_OUTPUTS = 256   -- of one response
local MAX_REQUESTS = 1000 -- ids of one stream that are kept; with one more all are taken to have ended
local MAX_ERROR = 65536   -- bytes beside the text of an error that are kept: the id of its request
local MAX_COUNT = 1000000000

-- The words of core.problems.Kind, by gRPC's status; a refusal of the backend's is ours to explain, so it is no refusal.
local MESSAGE = "The model's server broke off."
local REFUSED = "The model's server refused the request."
local TIMED_OUT = "There was no answer in time."
local WORDS = { [3] = REFUSED, [4] = TIMED_OUT, [5] = REFUSED, [9] = REFUSED, [11] = REFUSED, [12] = REFUSED }
local OWN_FAULT = { [7] = true, [16] = true } -- permission denied, unauthenticated: of ours, not of the client's

------------------------------------------------------------------------------------------------------------------------
-- Part 1: pure
------------------------------------------------------------------------------------------------------------------------

local MALFORMED = {}

-- Ends the chunk: what of it is forwarded. Waits for the next one.
-- m.s[m.i..] is not read yet, m.s[m.from..] not forwarded; from m.held_from on, and in m.held, it waits for a decision.
local function next_chunk(m)
  if m.held_from then
    m.out[#m.out + 1] = sub(m.s, m.from, m.held_from - 1)
    m.held, m.held_from = m.held .. sub(m.s, m.held_from), 1
  elseif not m.drops then
    m.out[#m.out + 1] = sub(m.s, m.from)
  end
  m.s, m.i, m.from = coroutine.yield(), 1, 1
end

local function forward_held(m)
  if m.held ~= "" then m.out[#m.out + 1] = m.held end
  m.held, m.held_from = "", nil
end

local function drop_held(m)
  m.out[#m.out + 1] = sub(m.s, m.from, m.held_from - 1)
  m.held, m.held_from, m.drops = "", nil, true
end

-- m.left: bytes that are left of the message.
local function octet(m)
  while m.i > #m.s do next_chunk(m) end
  m.i, m.left = m.i + 1, m.left - 1
  return byte(m.s, m.i - 1)
end

local function take(m, length)
  local pieces = {}
  while length > 0 do
    if m.i > #m.s then next_chunk(m) end
    local piece = sub(m.s, m.i, m.i + length - 1)
    m.i, m.left, length = m.i + #piece, m.left - #piece, length - #piece
    pieces[#pieces + 1] = piece
  end
  return concat(pieces)
end

local function skip(m, length)
  while length > 0 do
    if m.i > #m.s then next_chunk(m) end
    local step = min(length, #m.s - m.i + 1)
    m.i, m.left, length = m.i + step, m.left - step, length - step
  end
end

-- A varint; what is beyond 2^53 has no meaning here.
local function varint(m, stop)
  local value, factor = 0, 1
  for _ = 1, 10 do
    if m.left <= stop then error(MALFORMED) end
    local b = octet(m)
    value, factor = value + b % 128 * factor, factor * 128
    if b < 128 then return value end
  end
  error(MALFORMED)
end

-- Reads the fields of a message that ends where m.left is `stop`; those of `readers` by their number.
local function read_fields(m, stop, readers)
  while m.left > stop do
    local tag = varint(m, stop)
    local wire = tag % 8
    local length = wire == 2 and varint(m, stop) or wire == 1 and 8 or wire == 5 and 4 or 0
    local ends = m.left - length
    if ends < stop then error(MALFORMED) end
    local reader = wire == 2 and readers[floor(tag / 8)]
    if wire == 0 then
      varint(m, stop)
    elseif reader then
      reader(m, ends)
      skip(m, m.left - ends)
    elseif wire == 1 or wire == 2 or wire == 5 then
      skip(m, length)
    else
      error(MALFORMED)
    end
  end
end

local function take_field(m, ends)
  return take(m, min(m.left - ends, MAX_FIELD))
end

local function product(packed)
  local result, value, factor = 1, 0, 1
  for i = 1, #packed do
    local b = byte(packed, i)
    value, factor = value + b % 128 * factor, factor * 128
    if b < 128 then result, value, factor = result * value, 0, 1 end
  end
  return result
end

-- The sum of what a count's tensor holds, one for each text of a batch: INT32, little endian.
local function sum_of(raw)
  local sum = 0
  for i = 1, #raw, 4 do
    local a, b, c, d = byte(raw, i, i + 3)
    sum = sum + a + b * 256 + c * 65536 + d * 16777216
  end
  return min(sum, MAX_COUNT)
end

local CONTENTS = { -- InferTensorContents
  [2] = function(m, ends) -- int_contents
    local output = m.output
    if not output.is_count or m.left - ends > MAX_FIELD then return end
    while m.left > ends do output.sum, output.seen = output.sum + varint(m, ends), output.seen + 1 end
  end,
  [8] = function(m, ends) m.response.bytes = m.response.bytes + m.left - ends end, -- bytes_contents
}

local OUTPUT = { -- InferOutputTensor
  function(m, ends)
    local name = take_field(m, ends)
    m.output.name, m.output.is_count = name, name == "num_input_tokens" or name == "num_output_tokens"
  end,
  function(m, ends) m.output.datatype = take_field(m, ends) end,
  function(m, ends) m.output.values = product(take_field(m, ends)) end,
  [5] = function(m, ends) read_fields(m, ends, CONTENTS) end,
}

local RESPONSE = { -- ModelInferResponse
  [3] = function(m, ends) m.response.id = take_field(m, ends) end,
  [4] = function(m, ends)
    local parameter = take_field(m, ends)
    if find(parameter, "triton_final_response", 1, true) and find(parameter, "\18\2\8\1", 1, true) then
      m.response.is_final = true
    end
  end,
  [5] = function(m, ends)
    local output, response = { values = 1, seen = 0, sum = 0 }, m.response
    m.output = output
    read_fields(m, ends, OUTPUT)
    if output.is_count then -- false until its values come, and for good where they are not what they should be
      output.is_count = output.datatype == "INT32"
      response[output.name] = output.is_count and output.seen == output.values and min(output.sum, MAX_COUNT)
    end
    local outputs = response.outputs
    if #outputs < MAX_OUTPUTS then outputs[#outputs + 1] = output else m.over = true end
  end,
  [6] = function(m, ends) -- the values of the next output
    local response, length = m.response, m.left - ends
    response.raws = response.raws + 1
    local output = response.outputs[response.raws]
    if not output then return end
    if output.is_count then
      if length == 4 * output.values and length <= MAX_FIELD then response[output.name] = sum_of(take(m, length)) end
    elseif output.datatype == "BYTES" then -- each text has its length before it, in four bytes
      response.bytes = response.bytes + max(length - 4 * output.values, 0)
    end
  end,
}

local STREAM = { -- ModelStreamInferResponse
  function(m, ends) m.broke = m.broke or m.left > ends end, -- error_message, not where it should be
  function(m, ends) read_fields(m, ends, RESPONSE) end,
}

-- Takes what a response said, once it is whole.
local function end_response(m)
  local response = m.response
  local input, output, id = response.num_input_tokens, response.num_output_tokens, response.id
  if input or output then m.usages = m.usages + 1 end
  if input == false then m.is_input_vague = true end
  if output == false then m.is_output_vague = true end
  if output then m.output_tokens = (m.output_tokens or 0) + output end
  if input then
    local before = m.inputs[id]
    if not before then
      if m.requests >= MAX_REQUESTS then m.inputs, m.requests = {}, 0 end
      m.requests = m.requests + 1
    end
    m.inputs[id] = max(before or 0, input)
    m.input_tokens = (m.input_tokens or 0) + m.inputs[id] - (before or 0)
  end
  if response.is_final and m.inputs[id] then m.inputs[id], m.requests = nil, m.requests - 1 end
  if response.bytes > 0 then m.contents, m.bytes = m.contents + 1, m.bytes + response.bytes end
end

local function read_response(m)
  m.response = { id = "", outputs = {}, raws = 0, bytes = 0 }
  read_fields(m, 0, m.is_stream and STREAM or RESPONSE)
  end_response(m)
end

-- Reads a message that begins with an error, and puts our own in its place: what it holds beside the text, then ours,
-- as the last of a field counts.
local function replace_error(m)
  m.broke = true
  drop_held(m)
  local rest = ""
  local ok, problem = pcall(function()
    skip(m, min(varint(m, 0), m.left))
    if m.left <= MAX_ERROR then rest = take(m, m.left) end
  end)
  if not ok and problem ~= MALFORMED then error(problem, 0) end
  skip(m, m.left)
  local payload = rest .. "\10" .. char(#MESSAGE) .. MESSAGE
  local size = #payload
  m.out[#m.out + 1] = "\0" .. char(0, floor(size / 65536) % 256, floor(size / 256) % 256, size % 256) .. payload
  m.drops, m.from = false, m.i
end

local function read_message(m)
  m.held_from, m.left = m.i, 5
  local flag = octet(m)
  m.is_whole = false
  local a, b, c, d = octet(m), octet(m), octet(m), octet(m)
  m.left = ((a * 256 + b) * 256 + c) * 256 + d
  m.events = m.events + 1
  if flag ~= 0 then
    m.encoded = true
  elseif m.is_stream and m.left > 0 then
    if octet(m) == 10 then -- the first field is error_message, and protobuf leaves an empty one out
      replace_error(m)
      m.is_whole = true
      return
    end
    m.i, m.left = m.i - 1, m.left + 1
  end
  forward_held(m)
  if flag == 0 then
    local ok, problem = pcall(read_response, m)
    if not ok then
      if problem ~= MALFORMED then error(problem, 0) end
      m.over = true
    end
  end
  skip(m, m.left)
  m.is_whole = true
end

function M.new(is_stream)
  local m = {
    is_stream = is_stream, events = 0, contents = 0, usages = 0, bytes = 0, inputs = {}, requests = 0,
    held = "", is_whole = true, s = "", i = 1, from = 1, out = {},
  }
  m.reader = coroutine.create(function()
    while true do read_message(m) end
  end)
  assert(coroutine.resume(m.reader))
  m.out = nil
  return m
end

-- One string for the metadata.
function M.pack(m, ended)
  local input, output = not m.is_input_vague and m.input_tokens, not m.is_output_vague and m.output_tokens
  return "grpc," .. m.events .. "," .. m.contents .. "," .. m.usages .. "," .. (input or "-") .. ","
    .. (output or "-") .. ",-,-," .. (m.first_ms or 0) .. "," .. (m.last_ms or 0) .. ","
    .. (m.broke and "B" or ended and m.is_whole and "F" or "") .. (m.over and "O" or "") .. (m.failed and "E" or "")
    .. (m.encoded and "X" or "") .. "," .. m.bytes
end

-- Takes the next bytes of the body. Returns what to forward in their place, nil for the bytes as they are.
function M.feed(m, s)
  if s == "" then return nil end
  m.held_before, m.out = m.held, {}
  local ok, problem = coroutine.resume(m.reader, s)
  if not ok then error(problem, 0) end
  local out = concat(m.out)
  if out == s then return nil end
  return out
end

-- After `feed` failed on s: all bytes that were not forwarded.
function M.rescue(m, s)
  m.failed = true
  return m.held_before .. s
end

-- What to tell the client where the backend ended with this status; nil: as it is.
function M.ending(m, status, refusal)
  if status == 0 then
    return refusal
  end
  m.broke = true
  return { grpc_status = OWN_FAULT[status] and "14" or nil, grpc_message = WORDS[status] or MESSAGE }
end

------------------------------------------------------------------------------------------------------------------------
-- Part 2: Envoy
------------------------------------------------------------------------------------------------------------------------

-- Wrapped objects die when the script yields, so the metadata is asked for anew each time.
local function write(handle, usage)
  handle:streamInfo():dynamicMetadata():set("tollhouse.meter", "usage", usage)
end

local function fail(handle, m, problem)
  m.failed = true
  handle:logErr("meter: " .. tostring(problem))
  write(handle, M.pack(m))
end

-- `fields`: the trailers, or the headers of an answer that has nothing else.
local function conclude(handle, m, fields)
  local status = tonumber(fields:get("grpc-status"))
  local refusal = handle:streamInfo():dynamicMetadata():get("tollhouse.refusal")
  local ending = M.ending(m, status, refusal)
  if ending then
    if ending.grpc_status then fields:replace("grpc-status", ending.grpc_status) end
    fields:replace("grpc-message", ending.grpc_message)
    fields:remove("grpc-status-details-bin")
    if ending.grpc_status_details_bin then fields:add("grpc-status-details-bin", ending.grpc_status_details_bin) end
  end
  write(handle, M.pack(m, true))
end

function envoy_on_response(handle)
  local tollhouse = handle:streamInfo():dynamicMetadata():get("tollhouse")
  if not (tollhouse and tollhouse.admitted == true) then return end
  local headers = handle:headers()
  if find(lower(headers:get("content-type") or ""), "application/grpc", 1, true) ~= 1 then return end
  local m = M.new(handle:filterContext():get("stream") == true)
  if headers:get("grpc-status") then return conclude(handle, m, headers) end

  local written = 0
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local bytes = chunk:getBytes(0, length)
      local contents = m.contents
      local ok, replacement = pcall(M.feed, m, bytes)
      if not ok then
        chunk:setBytes(M.rescue(m, bytes))
        return fail(handle, m, replacement)
      end
      if replacement then chunk:setBytes(replacement) end
      if m.contents > contents then
        m.last_ms = handle:timestamp()
        m.first_ms = m.first_ms or m.last_ms
      end
      if m.events > written then
        written = m.events
        write(handle, M.pack(m))
      end
    end
  end
  local trailers = handle:trailers()
  if trailers and trailers:get("grpc-status") then return conclude(handle, m, trailers) end
  write(handle, M.pack(m))
end

return M
