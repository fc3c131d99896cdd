-- The meter: what a response used, counted in Envoy so that no byte of it crosses into Python.
--
-- It follows the body of an admitted 2xx answer and writes one string into the dynamic metadata, again with every
-- chunk that changed it, so that an answer which breaks off is metered up to there (the ledger logs it):
--
--   tollhouse.meter : usage = kind,events,contents,usages,input,output,cached,reasoning,first_ms,last_ms,flags
--
--   kind       sse | json | enc (encoded: not read)
--   events     SSE events with a JSON object; contents: those with text, per choice in index order, joined by ":"
--   usages     usage statements seen; input, output, cached, reasoning: tokens of the last one, "-" = not said
--   first_ms   Unix time of the first and of the last event with text, 0 = none
--   flags      D [DONE] seen · F finished: the body ended · O something was over a bound and not read
--              E the script failed and stopped reading · X encoded
--
-- It changes two things only: comment lines `: usage <input>,<output>,<cached>`, which our frontend puts before each
-- event, are taken out; and where `strip` is set in the namespace `tollhouse` (the client did not ask for it), so is
-- the event that has usage and no choices. All other bytes pass as they came. An event is forwarded when it is
-- complete, as no SSE client looks at it earlier; at the end of the body whatever is held is forwarded too.
--
-- Part 1 is pure and is tested by itself (tests/unit/meter); part 2 is the glue to Envoy (tests/e2e/edge).

local find, sub, byte, match, concat, lower = string.find, string.sub, string.byte, string.match, table.concat, string.lower

local M = {}

local MAX_EVENT = 65536    -- bytes of one event that are held and read; above, it passes unread (flag O)
local MAX_USAGE = 4096     -- bytes of one usage object in a JSON body
local MAX_CHOICE = 127     -- OpenAI allows n <= 128
local MAX_TEMPLATES = 256  -- see read_event

------------------------------------------------------------------------------------------------------------------------
-- Part 1: pure
------------------------------------------------------------------------------------------------------------------------

function M.new(kind, strip)
  return {
    kind = kind, strip = strip, events = 0, counts = {}, choices = 0, contents = 0, usages = 0,
    templates = {}, template_count = 0, depth = 0, head = kind .. ",",
  }
end

-- One string for the metadata.
function M.pack(m, finished)
  local contents = m.counts[0] or 0
  for choice = 1, m.choices - 1 do contents = contents .. ":" .. (m.counts[choice] or 0) end
  return m.head .. m.events .. "," .. contents .. "," .. m.usages .. "," .. (m.input or "-") .. "," .. (m.output or "-") .. ","
    .. (m.cached or "-") .. "," .. (m.reasoning or "-") .. "," .. (m.first_ms or 0) .. "," .. (m.last_ms or 0) .. ","
    .. (m.done and "D" or "") .. (finished and "F" or "") .. (m.over and "O" or "") .. (m.failed and "E" or "")
end

-- Takes the counts of one usage object; a count it does not name keeps its value. True if it named one.
local function read_usage(m, usage)
  local input = match(usage, '"prompt_tokens"%s*:%s*(%d+)') or match(usage, '"input_tokens"%s*:%s*(%d+)')
  local output = match(usage, '"completion_tokens"%s*:%s*(%d+)') or match(usage, '"output_tokens"%s*:%s*(%d+)')
  if not (input or output) then return false end
  m.usages = m.usages + 1
  m.input, m.output = input or m.input, output or m.output
  m.cached = match(usage, '"cached_tokens"%s*:%s*(%d+)') or m.cached
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

local IS_TEXT = { content = true, text = true, arguments = true, reasoning_content = true, reasoning = true, refusal = true }

-- Reads the JSON object of one event by its structure: text inside strings, whatever it looks like, counts for nothing,
-- nor does anything in what is not one whole object. Returns true if it has usage and no choices.
-- Depths: 1 the object, 2 `choices`, 3 one choice, 4 its `delta`.
local function scan_event(m, text)
  local depth, i, position, hits = 0, 1, -1, {}
  local in_choices, in_delta, no_choices, usage_at, usage_from, usage_to
  local index, is_hit, hit_at
  repeat
    local j = find(text, '["{}%[%]]', i)
    if not j then return false end
    local b = byte(text, j)
    i = j + 1
    if b == 34 then
      local k = string_end(text, i)
      if not k then return false end
      local v, c = skip_space(text, k + 1)
      i = v
      if c == 58 then -- ":", so the string is a key; its value begins at v with c
        v, c = skip_space(text, v + 1)
        i = v
        if depth == 1 then
          local key = sub(text, j + 1, k - 1)
          if key == "choices" and c == 91 then
            in_choices = true
            local _, first = skip_space(text, v + 1)
            no_choices = first == 93
          elseif key == "usage" and c == 123 then
            usage_at = v
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
        end
      end
    elseif b == 123 or b == 91 then
      depth = depth + 1
      if depth == 3 and in_choices then position, index, is_hit = position + 1, nil, false end
    else
      depth = depth - 1
      if depth == 3 then
        in_delta = false
      elseif depth == 2 and is_hit then
        hits[#hits + 1], is_hit = index or position, false
      elseif depth == 1 then
        in_choices = false
        if usage_at then usage_from, usage_to, usage_at = usage_at, j, nil end
      end
    end
  until depth <= 0
  if skip_space(text, i) <= #text then return false end

  for k = 1, #hits do count_content(m, hits[k]) end
  if #hits == 1 and not (usage_from and usage_from < hit_at) then -- remember its shape
    if m.template_count >= MAX_TEMPLATES then m.templates, m.template_count = {}, 0 end
    m.template_count, m.prefix_length = m.template_count + 1, hit_at
    m.templates[sub(text, 1, hit_at)] = {
      choice = hits[1],
      suffix = sub(text, string_end(text, hit_at + 1), usage_from and usage_from - 1 or #text),
      tail = usage_to and sub(text, usage_to + 1),
    }
  end
  return usage_from and read_usage(m, sub(text, usage_from, usage_to)) and no_choices and #hits == 0
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

-- Reads one event. True if it is not for the client. Most events are alike, and then the structure is not read again.
local function read_event(m, text)
  m.events = m.events + 1
  local n = m.prefix_length
  local template = n and m.templates[sub(text, 1, n)]
  if template and read_alike(m, template, text, n) then return false end
  return scan_event(m, text) and m.strip
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
  end
  return false
end

-- Ends the event: reads its payload. True if the event is not for the client.
local function end_event(m)
  local payload = m.payload
  if not payload then return false end
  m.payload = nil
  if type(payload) ~= "string" then payload = concat(payload, "\n") end
  local _, b = skip_space(payload, 1)
  if b == 123 then return read_event(m, payload) end
  if b == 91 and find(payload, "^%s*%[DONE%]") then m.done = true end
  return false
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
      elseif end_event(m) then
        removed = true
        if mark then
          pieces = mark
        elseif start > from then
          out = out or {}
          pieces = pieces + 1
          out[pieces] = sub(s, from, start - 1)
        end
        from = after
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
    passing, m.over, m.payload, m.events = true, true, nil, m.events + 1
    if line then
      out = out or {}
      pieces = pieces + 1
      out[pieces] = concat(line)
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
  if m.passing then return "" end
  local held = m.held and concat(m.held) or ""
  if m.line then
    local text = concat(m.line)
    if not read_line(m, text, 1, #text) then held = held .. text end
  end
  m.held, m.line = nil, nil
  if end_event(m) then return "" end
  return held
end

-- After `feed` failed on s: all bytes that were not forwarded.
function M.rescue(m, s)
  m.failed = true
  local held = m.held and concat(m.held) or ""
  return held .. (m.line and concat(m.line) or "") .. s
end

-- Takes the next bytes of one JSON document and reads the value of its top-level key `usage`, in constant memory.
-- m.depth of nesting; m.quoted: inside a string; m.escaped: after its backslash; m.name: the string so far, where it may
-- be a key (false: too long to be ours); m.key: the current key; m.valued: its value follows; m.caught: pieces of usage.
function M.feed_json(m, s)
  local i, n = 1, #s
  local from = m.caught and 1 -- where the usage object goes on in s
  if m.escaped and n > 0 then m.escaped, i = false, 2 end
  while i <= n do
    if m.quoted then
      local j = find(s, '["\\]', i)
      if m.name then
        m.name = m.name .. sub(s, i, j and j - 1 or n)
        if #m.name > 16 then m.name = false end
      end
      if not j then break end
      i = j + 1
      if byte(s, j) == 92 then
        m.name = false
        if j == n then m.escaped = true end
        i = j + 2
      else
        m.quoted, m.key = false, m.name or m.key
        m.name = false
      end
    else
      local depth = m.depth
      local j = find(s, depth == 1 and '["{}%[%],:]' or '["{}%[%]]', i)
      if not j then break end
      local b = byte(s, j)
      if b == 34 then
        m.quoted = true
        m.name = depth == 1 and not m.valued and "" or false
      elseif b == 123 or b == 91 then
        if depth == 1 and b == 123 and m.valued and m.key == "usage" then m.caught, m.caught_size, from = {}, 0, j end
        m.depth = depth + 1
      elseif b == 125 or b == 93 then
        m.depth = depth - 1
        if depth == 2 and m.caught then
          m.caught[#m.caught + 1] = sub(s, from, j)
          read_usage(m, concat(m.caught))
          m.caught, from = nil, nil
        end
      elseif b == 58 then
        m.valued = true
      else -- a comma
        m.valued, m.key = false, nil
      end
      i = j + 1
    end
  end
  if m.caught then
    m.caught_size = m.caught_size + n - from + 1
    if m.caught_size > MAX_USAGE then
      m.caught, m.over = nil, true
    else
      m.caught[#m.caught + 1] = sub(s, from)
    end
  end
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
      local ok, problem = pcall(M.feed_json, m, chunk:getBytes(0, length))
      if not ok then return fail(handle, m, problem) end
    end
  end
  write(handle, M.pack(m, true))
end

function envoy_on_response(handle)
  local tollhouse = handle:streamInfo():dynamicMetadata():get("tollhouse")
  if not (tollhouse and tollhouse.admitted == true) then return end
  local headers = handle:headers()
  if byte(headers:get(":status"), 1) ~= 50 then return end -- not 2xx: nothing was generated
  local encoding = headers:get("content-encoding")
  if encoding and lower(encoding) ~= "identity" then
    return write(handle, "enc,0,0,0,-,-,-,-,0,0,X")
  end
  local content_type = lower(headers:get("content-type") or "")
  if find(content_type, "text/event-stream", 1, true) == 1 then
    headers:remove("content-length") -- what is taken out would be missing at the end
    follow_events(handle, M.new("sse", tollhouse.strip == true))
  elseif find(content_type, "application/json", 1, true) == 1 then
    follow_json(handle, M.new("json", false))
  end
end

return M
