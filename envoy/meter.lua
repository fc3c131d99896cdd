-- The meter: what a response used, counted in Envoy so that no byte of it crosses into Python.
--
-- It follows the body of an admitted 2xx answer and writes one string into the dynamic metadata, again with every
-- chunk that changed it, so that an answer which breaks off is metered up to there (the ledger logs it):
--
--   tollhouse.meter : usage = kind,events,contents,usages,input,output,cached,reasoning,first_ms,last_ms,flags,bytes
--
--   kind       sse | json | grpc (meter_grpc.lua) | enc (encoded: not read)
--   events     SSE events with a JSON object; contents: those with output, per choice in index order, joined by ":"
--   usages     usage statements seen; input, output, cached, reasoning: tokens of the last one, "-" = not said.
--              Triton's responses count each its own output: the sum; its input is the largest said
--   first_ms   Unix time of the first and of the last event with output, 0 = none
--   flags      D [DONE] seen · F finished: the body ended, and no error was in it · B the backend broke off: one was
--              O something was over a bound and not read · E the script failed and stopped reading · X encoded
--   bytes      of Triton's text, as they came; 0 for all others
--
-- It changes three things only. Comment lines `: usage <input>,<output>,<cached>`, which our frontend puts before each
-- event, are taken out. So is the event that has usage and no choices, where `strip` is set in the namespace `tollhouse`
-- (the client did not ask for it). An error in the body gets our words where `foreign` is set there (the backend is not
-- ours) or the error is Triton's. All other bytes pass as they came. An event is forwarded when it is complete, as no
-- SSE client looks at it earlier; at the end of the body whatever is held is forwarded too.
--
-- It reads what OpenAI's chat, completions, embeddings (`usage`) and responses (`response.usage`), Anthropic's messages
-- (`message.usage`, then `usage`) and Triton's generate and infer (`num_input_tokens`, `num_output_tokens`) say.
--
-- Part 1 is pure and is tested by itself (tests/unit/meter); part 2 is the glue to Envoy (tests/e2e/edge).

local find, sub, byte, match, concat, lower = string.find, string.sub, string.byte, string.match, table.concat, string.lower
local gmatch, remove, min, max = string.gmatch, table.remove, math.min, math.max

local M = {}

local MAX_EVENT = 65536     -- bytes of one event that are held and read; above, it passes, and only usage is read (flag O)
local MAX_VALUE = 4096      -- bytes of one value that are held of a JSON body
local MAX_CHOICE = 127      -- OpenAI allows n <= 128
local MAX_TEMPLATES = 256   -- see read_event
local MAX_TENSORS = 256     -- of one binary answer of Triton
local MAX_COUNTS = 256      -- bytes of the counts of a batch in it
local MAX_COUNT = 1000000000 -- what a larger count is taken for; the ledger believes neither

-- The words of core.problems.Kind.UPSTREAM_FAILED; an error in a stream of the responses API is an event by itself.
local MESSAGE = '"The model\'s server broke off."'
local ERROR = '{"message":' .. MESSAGE .. ',"type":"server_error","param":null,"code":"upstream_error"}'
local ERROR_EVENTS = {
  openai = 'data: {"error":' .. ERROR .. '}\n\n',
  responses = 'event: error\ndata: {"type":"error","code":"upstream_error","message":' .. MESSAGE .. ',"param":null}\n\n',
  anthropic = 'event: error\ndata: {"type":"error","error":{"type":"api_error","message":' .. MESSAGE .. '}}\n\n',
  triton = 'data: {"error":' .. MESSAGE .. '}\n\n',
}

------------------------------------------------------------------------------------------------------------------------
-- Part 1: pure
------------------------------------------------------------------------------------------------------------------------

-- What is known of the JSON document that is being read, see read_document.
local function new_document()
  return { depth = 0, bytes = 0, tensors = {} }
end

function M.new(kind, strip, foreign)
  return {
    kind = kind, strip = strip, foreign = foreign, events = 0, counts = {}, choices = 0, contents = 0, usages = 0, bytes = 0,
    templates = {}, template_count = 0, head = kind .. ",", document = kind == "json" and new_document() or nil,
  }
end

-- One string for the metadata.
function M.pack(m, ended)
  local contents = m.counts[0] or 0
  for choice = 1, m.choices - 1 do contents = contents .. ":" .. (m.counts[choice] or 0) end
  return m.head .. m.events .. "," .. contents .. "," .. m.usages .. "," .. (m.input or "-") .. "," .. (m.output or "-") .. ","
    .. (m.cached or "-") .. "," .. (m.reasoning or "-") .. "," .. (m.first_ms or 0) .. "," .. (m.last_ms or 0) .. ","
    .. (m.done and "D" or "") .. (m.broke and "B" or ended and "F" or "") .. (m.over and "O" or "") .. (m.failed and "E" or "")
    .. "," .. m.bytes
end

local function count_of(digits)
  return min(tonumber(digits) or 0, MAX_COUNT)
end

-- The sum of a count of Triton's in JSON, a number or a list with one for each text, and how many; nil for all else.
local function sum_of(value)
  if #value > MAX_VALUE or find(value, "[^%[%]%d%s,]") then return nil end
  local sum, values = 0, 0
  for digits in gmatch(value, "%d+") do sum, values = sum + count_of(digits), values + 1 end
  if values > 0 then return min(sum, MAX_COUNT), values end
end

-- Takes the counts of one usage object; a count it does not name keeps its value. True if it named one.
local function read_usage(m, usage)
  local input, output = match(usage, '"prompt_tokens"%s*:%s*(%d+)'), match(usage, '"completion_tokens"%s*:%s*(%d+)')
  local cached = match(usage, '"cached_tokens"%s*:%s*(%d+)')
  if not (input or output) then
    input, output = match(usage, '"input_tokens"%s*:%s*(%d+)'), match(usage, '"output_tokens"%s*:%s*(%d+)')
    if not (input or output) then return false end
    -- Anthropic's input is what was neither read from its cache nor written to it.
    local read = match(usage, '"cache_read_input_tokens"%s*:%s*(%d+)')
    local written = match(usage, '"cache_creation_input_tokens"%s*:%s*(%d+)')
    if input and (read or written) then
      input, cached = count_of(input) + count_of(read) + count_of(written), read
    end
  end
  m.usages = m.usages + 1
  m.input, m.output, m.cached = input or m.input, output or m.output, cached or m.cached
  m.reasoning = match(usage, '"reasoning_tokens"%s*:%s*(%d+)') or m.reasoning
  return true
end

-- Index of the quote that closes the string whose first character is at i; nil if it stays open.
local function string_end(text, i)
  local j = find(text, '"', i, true)
  while j do
    local k = j
    while k > i and byte(text, k - 1) == 92 do k = k - 1 end
    if (j - k) % 2 == 0 then return j end -- not escaped
    j = find(text, '"', j + 1, true)
  end
end

-- Index and value of the first byte from i on that is not JSON white space.
local function skip_space(text, i)
  local b = byte(text, i)
  while b == 32 or b == 9 or b == 10 or b == 13 do
    i = i + 1
    b = byte(text, i)
  end
  return i, b
end

local function count_content(m, choice)
  if choice > MAX_CHOICE then m.over = true; choice = MAX_CHOICE end
  if choice >= m.choices then m.choices = choice + 1 end
  m.counts[choice] = (m.counts[choice] or 0) + 1
  m.contents = m.contents + 1
end

-- Takes what one response of Triton says.
local function add_response(m, input, output, bytes)
  if input or output then m.usages = m.usages + 1 end
  if input then m.input = max(m.input or 0, input) end
  if output then m.output = (m.output or 0) + output end
  if bytes > 0 then
    m.bytes = m.bytes + bytes
    count_content(m, 0)
  end
end

local IS_TEXT = { content = true, text = true, arguments = true, reasoning_content = true, reasoning = true, refusal = true }
local IS_BLOCK_TEXT = { text = true, partial_json = true, thinking = true } -- in the `delta` of an event of messages

-- Reads the JSON object of one event by its structure: text inside strings, whatever it looks like, counts for nothing,
-- nor does anything in what is not one whole object. Returns true if it has usage and no choices; if it is an error
-- that is not for the client, what to forward instead. `is_error`: its name says so.
-- Depths: 1 the object; 2 `choices`, 3 one choice, 4 its `delta`; 2 `delta` of messages, `message`, `response`.
local function scan_event(m, text, is_error)
  local depth, i, position, hits, whole = 0, 1, -1, {}, false
  local in_choices, in_delta, no_choices, in_block, inner, in_text
  local usage_at, usage_depth, usage_from, usage_to, usage_in
  local index, is_hit, hit_at
  local error_at, error_in, error_key
  local input, output, bytes = nil, nil, 0
  repeat
    local j = find(text, '["{}%[%]]', i)
    if not j then break end
    local b = byte(text, j)
    i = j + 1
    if b == 34 then
      local k = string_end(text, i)
      if not k then break end
      local v, c = skip_space(text, k + 1)
      i = v
      if c == 58 then -- ":", so the string is a key; its value begins at v with c
        v, c = skip_space(text, v + 1)
        i = v
        if depth == 1 then
          local key = sub(text, j + 1, k - 1)
          in_text = key == "text_output"
          if key == "choices" and c == 91 then
            in_choices = true
            local _, first = skip_space(text, v + 1)
            no_choices = first == 93
          elseif key == "usage" and c == 123 then
            usage_at, usage_depth = v, 1
          elseif key == "delta" and c == 34 then -- of responses
            if byte(text, v + 1) ~= 34 then hits[1] = 0 end
          elseif key == "delta" and c == 123 then
            in_block = true
          elseif (key == "message" or key == "response") and c == 123 then
            inner = key
          elseif key == "error" and (c == 123 or c == 34) then
            error_at = v
          elseif (key == "type" or key == "object") and find(text, '^"error"', v) then
            error_key = key
          elseif key == "num_input_tokens" then
            input = sum_of(match(text, '^[^"}]*', v))
          elseif key == "num_output_tokens" then
            output = sum_of(match(text, '^[^"}]*', v))
          end
        elseif in_choices and (depth == 3 or in_delta) then
          local key = sub(text, j + 1, k - 1)
          if depth == 3 and key == "index" then
            index = tonumber(match(text, "^%d+", v))
          elseif depth == 3 and c == 123 and (key == "delta" or key == "message") then
            in_delta = true
          elseif c == 34 and IS_TEXT[key] and (in_delta or key == "text") and byte(text, v + 1) ~= 34 then
            is_hit, hit_at = true, v
          end
        elseif depth == 2 and (in_block or inner) then
          local key = sub(text, j + 1, k - 1)
          if in_block then
            if c == 34 and IS_BLOCK_TEXT[key] and byte(text, v + 1) ~= 34 then hits[1], hit_at = 0, v end
          elseif key == "usage" and c == 123 then
            usage_at, usage_depth = v, 2
          elseif key == "error" and c == 123 then
            error_at, error_in = v, inner
          end
        end
      elseif in_text then
        bytes = bytes + k - j - 1
      end
    elseif b == 123 or b == 91 then
      depth = depth + 1
      if depth == 3 and in_choices then position, index, is_hit = position + 1, nil, false end
    else
      depth = depth - 1
      if usage_at and depth == usage_depth then
        usage_from, usage_to, usage_in, usage_at = usage_at, j, inner, nil
      end
      if depth == 3 then
        in_delta = false
      elseif depth == 2 and is_hit then
        hits[#hits + 1], is_hit = index or position, false
      elseif depth == 1 then
        in_choices, in_block, inner = false, false, nil
      elseif depth == 0 then
        whole = skip_space(text, i) > #text
      end
    end
  until depth <= 0

  local has_usage = whole and usage_from and read_usage(m, sub(text, usage_from, usage_to))
  if has_usage and usage_in == "message" then -- the output that it says is none yet
    m.is_messages, m.output = true, nil
  end
  if error_at or error_key or is_error then
    m.broke = true
    local is_triton = error_at and byte(text, error_at) == 34
    if not (m.foreign or is_triton) then return false end
    local by_type = error_key == "type"
    return ERROR_EVENTS[is_triton and "triton" or (error_in or by_type and not error_at) and "responses"
      or (by_type or m.is_messages) and "anthropic" or "openai"]
  end
  if not whole then return false end

  if input or output or bytes > 0 then add_response(m, input, output, bytes) end
  for k = 1, #hits do count_content(m, hits[k]) end
  if #hits == 1 and hit_at and not usage_in and not (usage_from and usage_from < hit_at) then -- remember its shape
    if m.template_count >= MAX_TEMPLATES then m.templates, m.template_count = {}, 0 end
    m.template_count, m.prefix_length = m.template_count + 1, hit_at
    m.templates[sub(text, 1, hit_at)] = {
      choice = hits[1],
      suffix = sub(text, string_end(text, hit_at + 1), usage_from and usage_from - 1 or #text),
      tail = usage_to and sub(text, usage_to + 1),
    }
  end
  return has_usage and no_choices and #hits == 0
end

-- Reads one event that has the shape of an earlier one: all bytes up to the text of its one choice and all bytes after
-- it are the same, but for the numbers of a usage object, and so is their meaning. False if it has not.
local function read_alike(m, template, text, n)
  local k = string_end(text, n + 1)
  if not k or k == n + 1 then return false end
  local suffix, tail = template.suffix, template.tail
  if not tail then
    if sub(text, k) ~= suffix then return false end
  else
    local usage_from, usage_to = k + #suffix, #text - #tail
    if sub(text, k, usage_from - 1) ~= suffix or sub(text, usage_to + 1) ~= tail then return false end
    local usage = match(sub(text, usage_from, usage_to), "^%b{}$")
    if not (usage and read_usage(m, usage)) then return false end
  end
  count_content(m, template.choice)
  return true
end

-- Reads one event. Returns true if it is not for the client, or what is in its place. Most events are alike, and then
-- the structure is not read again.
local function read_event(m, text, is_error)
  m.events = m.events + 1
  local n = m.prefix_length
  local template = n and not is_error and m.templates[sub(text, 1, n)]
  if template and read_alike(m, template, text, n) then return false end
  local verdict = scan_event(m, text, is_error)
  return verdict == true and m.strip or verdict ~= true and verdict
end

-- Reads the line text[a..e]. True if it is ours and must not be forwarded.
local function read_line(m, text, a, e)
  local b = byte(text, a)
  if b == 58 then -- ":", a comment
    local input, output, cached = match(sub(text, a, e), "^: usage (%d+),(%d+),(%d+)$")
    if not input then return false end
    m.usages = m.usages + 1
    m.input, m.output, m.cached = input, output, cached
    return true
  end
  if b == 239 and m.events == 0 and sub(text, a, a + 2) == "\239\187\191" then a = a + 3 end -- byte order mark
  if sub(text, a, a + 4) == "data:" then
    a = a + 5
    if byte(text, a) == 32 then a = a + 1 end
    local value = sub(text, a, e)
    local payload = m.payload
    if not payload then
      m.payload = value
    elseif type(payload) == "string" then
      m.payload = { payload, value }
    else
      payload[#payload + 1] = value
    end
  elseif m.foreign and find(sub(text, a, e), "^event: ?error$") then
    m.is_error = true
  end
  return false
end

-- Ends the event: reads its payload. Returns true if the event is not for the client, or what is in its place.
local function end_event(m)
  local payload, is_error = m.payload, m.is_error
  if not payload then return false end
  m.payload, m.is_error = nil, false
  if type(payload) ~= "string" then payload = concat(payload, "\n") end
  local _, b = skip_space(payload, 1)
  local verdict = false
  if b == 123 then
    verdict = read_event(m, payload, is_error)
  elseif b == 91 and find(payload, "^%s*%[DONE%]%s*$") then
    m.done = true
  elseif b then
    is_error = m.foreign -- no such event is in these APIs, so it is not of the answer
  end
  if is_error and not verdict then
    m.broke, verdict = true, ERROR_EVENTS[m.is_messages and "anthropic" or "openai"]
  end
  return verdict
end

-- What a JSON document is read for, by the depth of the key.
local IS_READ = {
  { usage = true, num_input_tokens = true, num_output_tokens = true },
  { usage = true }, -- in `response` and `message`
  { name = true, datatype = true, shape = true, parameters = true, data = true }, -- in the tensors in `outputs`
}

local function has_keys(d)
  local depth = d.depth
  return depth == 1 or depth == 2 and d.inner or depth == 3 and d.tensor
end

-- Takes the value that was caught, with what it stands for.
local function read_value(m, d, value)
  local key = d.caught_key
  if d.tensor then
    d.tensor[key] = value
  elseif key == "usage" then
    local is_said = find(value, "^%s*{") and read_usage(m, value)
    if is_said and d.inner == "message" then m.is_messages, m.output = true, nil end
  else
    d[key] = sum_of(value)
  end
end

-- Takes one of the tensors in `outputs`; the values of a binary one come after the document.
local function end_tensor(m, d)
  local tensor = d.tensor
  d.tensor = nil
  local name = match(tensor.name or "", '^%s*"(.*)"%s*$')
  local is_count = name == "num_input_tokens" or name == "num_output_tokens"
  local datatype = match(tensor.datatype or "", '"(.*)"')
  local size = tonumber(match(tensor.parameters or "", '"binary_data_size"%s*:%s*(%d+)'))
  local values = 1
  for length in gmatch(tensor.shape or "", "%d+") do values = values * tonumber(length) end
  is_count = is_count and datatype == "INT32" -- of any other, nobody knows what the bytes say
  if not size then
    local sum, seen = sum_of(tensor.data or "")
    if is_count and seen == values then d[name] = sum end
  elseif #d.tensors < MAX_TENSORS then
    is_count = is_count and size == 4 * values and size <= MAX_COUNTS
    d.tensors[#d.tensors + 1] = { name = name, left = size, is_count = is_count, value = "" }
    if datatype == "BYTES" then -- each text has its length before it, in four bytes
      d.bytes = d.bytes + max(size - 4 * values, 0)
    end
  else
    m.over = true
  end
end

-- Takes the next bytes of one JSON document and reads the values of IS_READ in it and the length of its text, in constant
-- memory. Returns what to forward in their place, nil for the bytes as they are: the value of `error` gets our words.
-- d.depth of nesting; d.quoted: inside a string; d.escaped: after its backslash; d.name: the string so far, where it may
-- be a key (false: too long to be ours); d.key: the current key; d.valued: its value follows; d.caught: pieces of a
-- value; d.inner: the object whose keys count too; d.is_text: the strings of this value are output; d.skipped: the
-- depth of the error that is left out.
local function read_document(m, s)
  local d, i, n = m.document, 1, #s
  local caught_from = d.caught and 1 -- where the value that is caught goes on in s
  local out, from = d.skipped and {} or nil, 1 -- forwarded before s[from..]
  if d.escaped and n > 0 then d.escaped, i = false, 2 end
  while i <= n do
    local ends, depth = nil, d.depth -- where a value that may be the error ends
    if d.quoted then
      local j = find(s, '["\\]', i)
      if d.name then
        d.name = d.name .. sub(s, i, j and j - 1 or n)
        if #d.name > 20 then d.name = false end
      end
      if d.is_text then d.bytes = d.bytes + (j or n + 1) - i end
      if not j then break end
      i = j + 1
      if byte(s, j) == 92 then
        if d.is_text then d.bytes = d.bytes + 2 end
        d.name = false
        if j == n then d.escaped = true end
        i = j + 2
      else
        d.quoted, d.key = false, d.name or d.key
        d.name, ends = false, j
      end
    else
      local keyed = has_keys(d)
      local j = find(s, keyed and '["{}%[%],:]' or '["{}%[%]]', i)
      if not j then break end
      local b = byte(s, j)
      i = j + 1
      if keyed and d.valued and d.key == "error" and depth < 3 and (b == 34 or b == 123) and not d.skipped then
        m.broke = true
        if (m.foreign or b == 34) and not m.is_fixed then
          out = out or {}
          out[#out + 1] = sub(s, from, j - 1)
          out[#out + 1] = b == 34 and MESSAGE or ERROR
          d.skipped = depth
        end
      end
      if b == 34 then
        d.quoted = true
        d.name = keyed and not d.valued and "" or false
      elseif b == 123 or b == 91 then
        if keyed and d.valued then
          if depth == 1 and b == 123 and (d.key == "response" or d.key == "message") then d.inner = d.key end
          if depth == 1 and b == 91 and d.key == "outputs" then d.in_outputs = true end
        elseif depth == 2 and d.in_outputs and b == 123 then
          d.tensor = {}
        end
        d.depth = depth + 1
        if has_keys(d) then d.valued, d.key = false, nil end
      elseif b == 125 or b == 93 or b == 44 then
        if keyed and d.caught then
          d.caught[#d.caught + 1] = sub(s, caught_from, j - 1)
          read_value(m, d, concat(d.caught))
          d.caught, caught_from = nil, nil
        end
        if keyed then d.valued, d.key, d.is_text = false, nil, false end
        if b ~= 44 then
          d.depth = depth - 1
          if d.tensor and depth == 3 then end_tensor(m, d) end
          if depth == 2 then d.inner, d.in_outputs = nil, nil end
          ends = j
        end
      else -- a colon
        d.valued = true
        if IS_READ[depth][d.key] then d.caught, d.caught_key, d.caught_size, caught_from = {}, d.key, 0, j + 1 end
        d.is_text = d.key == (depth == 1 and "text_output" or depth == 3 and "data")
      end
    end
    if ends and d.skipped == d.depth then d.skipped, from = nil, ends + 1 end
  end
  if d.caught then
    d.caught_size = d.caught_size + n - caught_from + 1
    if d.caught_size > MAX_VALUE then
      if d.caught_key == "usage" then m.over = true end
      d.caught = nil
    else
      d.caught[#d.caught + 1] = sub(s, caught_from)
    end
  end
  if not out then return nil end
  if not d.skipped then out[#out + 1] = sub(s, from) end
  return concat(out)
end

-- Takes what Triton said in the document, at its end.
local function end_document(m)
  local d = m.document
  local input, output = d.num_input_tokens, d.num_output_tokens
  add_response(m, input, output, d.bytes)
end

local PASSED = {} -- instead of the pieces of a line that was forwarded already

-- Takes the next bytes of an event stream. Returns what to forward in their place, nil for the bytes as they are.
-- m.held: pieces of the current event's complete lines; m.line: pieces of the line after them. Both stay as they were
-- until the end, so that after an error `rescue` still has every byte.
function M.feed(m, s)
  local n = #s
  if n == 0 then return nil end
  local line, passing = m.line, m.passing
  local out, pieces = nil, 0   -- to forward before s[from..]
  local mark                   -- how many of them come before the current event, where some are its own
  local from, start, i = 1, 1, 1 -- of what is not in `out`, of the current event, of the current line
  local ended_by_cr = false
  local has_cr = find(s, "\r", 1, true)

  if m.after_cr and byte(s, 1) == 10 then -- the second half of a CR LF
    i = 2
    if m.after_cr == "removed" then from = 2 end
    if not m.held then start = 2 end
  end
  if m.held then
    out, pieces, mark = {}, #m.held, 0
    for k = 1, pieces do out[k] = m.held[k] end
  elseif line and not passing then
    mark = 0
  end

  while true do
    local j
    if has_cr then j = find(s, "[\r\n]", i) else j = find(s, "\n", i, true) end
    if not j then break end
    local after, removed = j + 1, false
    if has_cr and byte(s, j) == 13 then
      if j == n then ended_by_cr = true elseif byte(s, after) == 10 then after = j + 2 end
    end
    if line then
      if not passing then
        local began = concat(line)
        local text = began .. sub(s, i, j - 1)
        removed = read_line(m, text, 1, #text)
        if removed then
          from = after
        else
          out = out or {}
          pieces = pieces + 1
          out[pieces] = began
        end
      end
      line = nil
    elseif j == i then -- a blank line: the event ends
      if passing then
        passing = false
        local instead = read_document(m, sub(s, from, j - 1))
        if instead then
          out, pieces = { instead }, 1
          from = j
        end
        end_document(m)
      else
        local verdict = end_event(m)
        if verdict then
          removed = true
          if mark then
            pieces = mark
          elseif start > from then
            out = out or {}
            pieces = pieces + 1
            out[pieces] = sub(s, from, start - 1)
          end
          if verdict ~= true then
            out = out or {}
            pieces = pieces + 1
            out[pieces] = verdict
          end
          from = after
        end
      end
      mark, start = nil, after
    elseif not passing and read_line(m, s, i, j - 1) then
      removed = true
      if not mark then
        if start > from then
          out = out or {}
          pieces = pieces + 1
          out[pieces] = sub(s, from, start - 1)
          from = start
        end
        mark = pieces
      end
      if i > from then
        out = out or {}
        pieces = pieces + 1
        out[pieces] = sub(s, from, i - 1)
      end
      from = after
    end
    i = after
    if ended_by_cr then ended_by_cr = removed and "removed" or "kept" end
  end

  m.after_cr = ended_by_cr
  local continues = mark ~= nil or start <= n -- an event is under way
  if continues and not passing then
    local size = (start == 1 and m.size or 0) + n - start + 1
    if size <= MAX_EVENT then
      m.size = size
      local held
      if mark and pieces > mark then
        held = {}
        for k = mark + 1, pieces do held[#held + 1] = out[k] end
        pieces = mark
      end
      local a = from > start and from or start
      if a < i then
        held = held or {}
        held[#held + 1] = sub(s, a, i - 1)
      end
      if i <= n then
        if line then line[#line + 1] = sub(s, i) else line = { sub(s, i) } end
      end
      m.held, m.line, m.passing = held, line, false
      if mark then -- what follows `out` belongs to the event
        return pieces > 0 and concat(out, "", 1, pieces) or ""
      end
      if pieces == 0 then return sub(s, from, start - 1) end
      return concat(out, "", 1, pieces) .. sub(s, from, start - 1)
    end
    passing, m.over, m.payload, m.is_error, m.events = true, true, nil, false, m.events + 1
    if line then
      out = out or {}
      pieces = pieces + 1
      out[pieces] = concat(line)
    end
    m.document = new_document()
    local own = (mark or pieces) + 1 -- the first piece that is the event's
    if not mark and start > from then
      out = out or {}
      pieces, own = pieces + 1, own + 1
      out[pieces] = sub(s, from, start - 1)
      from = start
    end
    local event = (pieces >= own and concat(out, "", own, pieces) or "") .. sub(s, from)
    out = out or {}
    pieces, from = own, n + 1
    out[pieces] = read_document(m, event) or event
  elseif continues then
    local instead = read_document(m, sub(s, from))
    if instead then
      out, pieces, from = { instead }, 1, n + 1
    end
  end
  m.held, m.size, m.passing = nil, 0, passing
  if passing and (i <= n or line) then m.line = PASSED else m.line = nil end
  if pieces == 0 then
    if from == 1 then return nil end
    return sub(s, from)
  end
  return concat(out, "", 1, pieces) .. sub(s, from)
end

-- Ends the event stream. Returns the bytes still held that must be forwarded.
function M.finish(m)
  if m.passing then
    end_document(m)
    return ""
  end
  local held = m.held and concat(m.held) or ""
  if m.line then
    local text = concat(m.line)
    if not read_line(m, text, 1, #text) then held = held .. text end
  end
  m.held, m.line = nil, nil
  local verdict = end_event(m)
  if verdict then return verdict == true and "" or verdict end
  return held
end

-- After `feed` failed on s: all bytes that were not forwarded.
function M.rescue(m, s)
  m.failed = true
  local held = m.held and concat(m.held) or ""
  return held .. (m.line and concat(m.line) or "") .. s
end

-- Takes the next bytes of the tensors that follow the document: in its order, each as long as it said.
local function read_tensors(m, s)
  local d, i = m.document, 1
  while i <= #s and d.tensors[1] do
    local tensor = d.tensors[1]
    local piece = sub(s, i, i + tensor.left - 1)
    tensor.left, i = tensor.left - #piece, i + #piece
    if tensor.is_count then tensor.value = tensor.value .. piece end
    if tensor.left == 0 then
      remove(d.tensors, 1)
      if tensor.is_count then
        local value, sum = tensor.value, 0
        for k = 1, #value, 4 do
          local a, b, c, e = byte(value, k, k + 3) -- INT32, little endian
          sum = sum + a + b * 256 + c * 65536 + e * 16777216
        end
        d[tensor.name] = min(sum, MAX_COUNT)
      end
    end
  end
end

-- Takes the next bytes of one JSON document, the first m.json_left of the body where tensors follow it. Returns what to
-- forward in their place, nil for the bytes as they are.
function M.feed_json(m, s)
  local left = m.json_left
  if not left then return read_document(m, s) end
  if left > 0 then
    read_document(m, sub(s, 1, left))
    m.json_left = max(left - #s, 0)
    s = sub(s, left + 1)
  end
  read_tensors(m, s)
end

-- Ends the document.
M.finish_json = end_document

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

local function follow_events(handle, m)
  local written_events, written_usages, written_contents, last = 0, 0, 0, nil
  for chunk in handle:bodyChunks() do
    last = chunk
    local length = chunk:length()
    if length > 0 then
      local bytes = chunk:getBytes(0, length)
      local ok, replacement = pcall(M.feed, m, bytes)
      if not ok then
        chunk:setBytes(M.rescue(m, bytes))
        return fail(handle, m, replacement)
      end
      if replacement then chunk:setBytes(replacement) end
      if m.contents > written_contents then
        written_contents = m.contents
        m.last_ms = handle:timestamp()
        m.first_ms = m.first_ms or m.last_ms
      end
      if m.events > written_events or m.usages > written_usages then
        written_events, written_usages = m.events, m.usages
        write(handle, M.pack(m))
      end
    end
  end
  -- The last chunk may still be written to: Envoy forwards it after this function has returned. Only an HTTP/2 backend
  -- that ends with trailers leaves none.
  local rest = M.finish(m)
  if rest ~= "" then
    local ok, problem = pcall(function()
      local length = last:length()
      last:setBytes((length > 0 and last:getBytes(0, length) or "") .. rest)
    end)
    if not ok then return fail(handle, m, problem) end
  end
  write(handle, M.pack(m, true))
end

local function follow_json(handle, m)
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    if length > 0 then
      local ok, replacement = pcall(M.feed_json, m, chunk:getBytes(0, length))
      if not ok then return fail(handle, m, replacement) end
      if replacement then chunk:setBytes(replacement) end
    end
  end
  M.finish_json(m)
  write(handle, M.pack(m, true))
end

function envoy_on_response(handle)
  local tollhouse = handle:streamInfo():dynamicMetadata():get("tollhouse")
  if not (tollhouse and tollhouse.admitted == true) then return end
  local headers = handle:headers()
  if byte(headers:get(":status"), 1) ~= 50 then return end -- not 2xx: nothing was generated
  local encoding = headers:get("content-encoding")
  if encoding and lower(encoding) ~= "identity" then
    return write(handle, "enc,0,0,0,-,-,-,-,0,0,X,0")
  end
  local content_type = lower(headers:get("content-type") or "")
  local foreign = tollhouse.foreign == true
  local json_length = headers:get("inference-header-content-length") -- Triton's, where binary tensors follow the JSON
  if find(content_type, "text/event-stream", 1, true) == 1 then
    headers:remove("content-length") -- what is taken out would be missing at the end
    follow_events(handle, M.new("sse", tollhouse.strip == true, foreign))
  elseif json_length or find(content_type, "application/json", 1, true) == 1 then
    local m = M.new("json", false, foreign)
    m.json_left = tonumber(json_length)
    if foreign and not json_length then headers:remove("content-length") end
    m.is_fixed = headers:get("content-length") ~= nil
    follow_json(handle, m)
  end
end

return M
