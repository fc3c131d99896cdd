-- What of a backend's answer is not for clients: of its headers all but a few, and what it says when it fails, which may
-- name hosts, paths, models and prompts.
--
-- It replaces every answer that is not a 2xx, where extproc put `foreign` into the dynamic metadata `tollhouse` (a server
-- that is not ours) or the path is one of Triton's own. What reaches the client is one of a closed list (core/problems.py),
-- in the dialect of its path; the upstream's status, headers and body stay here. Envoy's own replies to an admitted
-- request come through here as well and keep their meaning. Of gRPC the headers alone are touched.
--
-- A 2xx that the meter can't read, of another type or compressed, counts as a failure too: it would be given away.
--
-- Of an upstream's body at most 16 KiB are read, to tell three things apart that servers answer 400 for: a prompt that
-- is too long, another fault of the client, an engine that failed. A compressed one is not read.
--
-- Part 1 is pure and is tested by itself (tests/unit/answers); part 2 is the glue to Envoy (tests/e2e/backends).

local find, match, lower, format = string.find, string.match, string.lower, string.format

local M = {}

local MAX_READ = 16384
local MAX_RETRY = 60 -- seconds; whoever asks for more is not worth waiting for

-- Of core.problems.Kind: status, OpenAI's type and code, Anthropic's type; and what is said.
local PROBLEMS = {
  INVALID_REQUEST = { 400, "invalid_request_error", nil, "invalid_request_error", "The model's server refused the request." },
  CONTEXT_LENGTH = { 400, "invalid_request_error", "context_length_exceeded", "invalid_request_error",
    "The prompt and the output together are longer than the model's context." },
  MODEL_NOT_FOUND = { 404, "invalid_request_error", "model_not_found", "not_found_error",
    "The model does not exist or you do not have access to it." },
  UPSTREAM_FAILED = { 502, "server_error", "upstream_error", "api_error", "The model's server broke off." },
  UNAVAILABLE = { 503, "server_error", "service_unavailable", "overloaded_error",
    "The service is unavailable at the moment; please try again." },
  OVERLOADED = { 503, "server_error", "overloaded", "overloaded_error", "The model is overloaded at the moment; please try again." },
  TIMED_OUT = { 504, "server_error", "timeout", "timeout_error", "There was no answer in time." },
}

------------------------------------------------------------------------------------------------------------------------
-- Part 1: pure
------------------------------------------------------------------------------------------------------------------------

-- Words of vLLM, SGLang, TensorRT-LLM, Triton, OpenAI and Anthropic, in small letters.
local TOO_LONG = {
  "context_length_exceeded", "context length", "context window", "maximum model length", "max_model_len", "max_seq_len",
  "max sequence length", "max_num_tokens", "max_input_len", "maximum input length", "prompt is too long",
}
-- What trtllm-serve and Triton's frontend answer 400 for although the client did nothing wrong: any exception.
local ENGINE_FAILED = {
  "traceback", "cuda", "nccl", "tensorrt_llm", "[tensorrt-llm]", "tllm_", "assertion failed", "out of memory", "executor",
  "enginedead", "engine core", "not healthy", "stub process", "runtimeerror", "internal error", "internal server error",
  "worker died", '"type":"internal', '"type": "internal', '"type":"server_error', '"type": "server_error',
}

local function has(text, words)
  for i = 1, #words do
    if find(text, words[i], 1, true) then return true end
  end
  return false
end

-- Whether the meter reads a 2xx like this; `tensors`: inference-header-content-length.
function M.is_read(dialect, content_type, encoding, tensors)
  if encoding and lower(encoding) ~= "identity" then return false end
  if dialect == "triton" and tensors then return true end
  local kind = lower(content_type or "")
  return find(kind, "application/json", 1, true) == 1 or find(kind, "text/event-stream", 1, true) == 1
end

-- Name of the problem that an answer of this status and body is; the body may be nil.
function M.problem(status, body)
  if status == 400 or status == 413 or status == 422 then
    local text = lower(body or "")
    if has(text, TOO_LONG) then return "CONTEXT_LENGTH" end
    if find(text, "unknown model", 1, true) or (find(text, "model", 1, true) and find(text, "does not exist", 1, true)) then
      return "UNAVAILABLE" -- configured here, not there
    end
    if has(text, ENGINE_FAILED) then return "UPSTREAM_FAILED" end
    return "INVALID_REQUEST"
  end
  if status == 501 then return "INVALID_REQUEST" end -- Triton's, of one answer from a model that streams
  if status == 404 or status == 405 or status == 503 then return "UNAVAILABLE" end
  if status == 429 or status == 529 then return "OVERLOADED" end
  if status == 408 or status == 504 then return "TIMED_OUT" end
  return "UPSTREAM_FAILED" -- our credential refused, a redirect, any 5xx, a 2xx nobody can read
end

-- The same for a path of Triton's: its version is the client's, and may be one that was never there.
function M.problem_at(path, status, body)
  local name = M.problem(status, body)
  if name == "UNAVAILABLE" and status < 405 and find(path, "^/v2/models/[^/]+/versions/") then return "MODEL_NOT_FOUND" end
  return name
end

-- The field that the server found wrong, nil where it does not say. Its name goes to the client, so it must look like one.
function M.param(body)
  if not body then return nil end
  local name = match(body, '"param"%s*:%s*"([%l_][%l%d_]*)"') or match(body, '"loc"%s*:%s*%[%s*"body"%s*,%s*"([%l_][%l%d_]*)"')
  if name and #name <= 64 then return name end
end

-- How whoever asks for this path expects to be refused (core.surface.dialect_of).
function M.dialect(path)
  if find(path, "/v1/messages", 1, true) == 1 then return "anthropic" end
  if find(path, "/v2", 1, true) == 1 then return "triton" end
  return "openai"
end

-- The whole body; trace is the trace's id, nil where there is none.
function M.body(name, dialect, param, trace)
  local problem = PROBLEMS[name]
  trace = trace and format(',"trace_id":"%s"', trace) or ""
  if dialect == "anthropic" then
    return format('{"type":"error","error":{"type":"%s","message":"%s"}%s}', problem[4], problem[5], trace)
  elseif dialect == "triton" then
    return format('{"error":"%s"%s}', problem[5], trace)
  end
  local code = problem[3] and '"' .. problem[3] .. '"' or "null"
  return format('{"error":{"message":"%s","type":"%s","param":%s,"code":%s%s}}', problem[5], problem[2],
    param and '"' .. param .. '"' or "null", code, trace)
end

function M.status(name) return PROBLEMS[name][1] end

-- Seconds after which to try again, as a string; nil where trying again is no help.
function M.retry_after(name, told)
  if name ~= "UNAVAILABLE" and name ~= "OVERLOADED" then return nil end
  local seconds = tonumber(match(told or "", "^%d+$")) or 1
  return tostring(math.max(1, math.min(seconds, MAX_RETRY)))
end

------------------------------------------------------------------------------------------------------------------------
-- Part 2: glue
------------------------------------------------------------------------------------------------------------------------

-- By routes, where extproc gave a value, and by the filter `trace`; a backend's own are gone by now.
local OURS = {
  [":status"] = true, ["x-tollhouse-model"] = true, ["x-tollhouse-exchange"] = true, ["x-tollhouse-trace"] = true,
  ["x-ratelimit-limit-requests"] = true, ["x-ratelimit-remaining-requests"] = true, ["x-ratelimit-reset-requests"] = true,
  ["x-ratelimit-limit-tokens"] = true, ["x-ratelimit-remaining-tokens"] = true, ["x-ratelimit-reset-tokens"] = true,
}
-- All that clients need of a backend's. Others set cookies, send elsewhere or tell who is behind us.
local PASSED = {
  ["content-type"] = true, ["content-length"] = true, ["content-encoding"] = true, ["cache-control"] = true,
  ["retry-after"] = true, ["inference-header-content-length"] = true, ["grpc-status"] = true, ["grpc-message"] = true,
  ["grpc-status-details-bin"] = true, ["grpc-encoding"] = true, ["grpc-accept-encoding"] = true,
}

-- A header map can't be changed while it is walked through.
local function remove_theirs(headers, passed)
  local theirs = {}
  for name in pairs(headers) do
    if not (OURS[name] or passed[name]) then theirs[#theirs + 1] = name end
  end
  for i = 1, #theirs do headers:remove(theirs[i]) end
end

function envoy_on_response(handle)
  local tollhouse = handle:streamInfo():dynamicMetadata():get("tollhouse")
  if not (tollhouse and tollhouse.admitted == true) then return end
  local headers, asked = handle:headers(), handle:requestHeaders()
  remove_theirs(headers, PASSED)
  local path = asked:get(":path") or ""
  local content_type = headers:get("content-type")
  if find(path, "/inference.", 1, true) == 1 or find(content_type or "", "application/grpc", 1, true) == 1 then return end

  local status, dialect = tonumber(headers:get(":status")), M.dialect(path)
  local encoding, told = headers:get("content-encoding"), headers:get("retry-after")
  if status >= 200 and status < 300 then
    if dialect ~= "triton" then headers:remove("inference-header-content-length") end -- the meter would believe it
    if asked:get(":method") ~= "POST" then return end -- nothing was generated
    if M.is_read(dialect, content_type, encoding, headers:get("inference-header-content-length")) then return end
  elseif not (tollhouse.foreign == true or dialect == "triton") then
    return
  end
  local trace = headers:get("x-tollhouse-trace") -- Envoy's, from the filter before this one
  remove_theirs(headers, {})

  local content = handle:body(true) -- all of it: its place is taken by ours
  local text
  if not encoding or lower(encoding) == "identity" then
    text = content:getBytes(0, math.min(content:length(), MAX_READ))
  end
  local name = M.problem_at(path, status, text)
  content:setBytes(M.body(name, dialect, name == "INVALID_REQUEST" and M.param(text) or nil, trace))
  headers = handle:headers() -- what was wrapped before the wait is dead
  headers:replace(":status", tostring(M.status(name)))
  headers:replace("content-type", "application/json")
  local retry_after = M.retry_after(name, told)
  if retry_after then headers:replace("retry-after", retry_after) end
end

return M
