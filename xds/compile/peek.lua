-- Reads what a decision needs of a JSON request body, so that Weir can decide without seeing the body: the
-- model, the stream flag, the limits of the answer, and how large it is. What it finds goes into dynamic
-- metadata as raw JSON; Weir judges it. It refuses nothing itself: it reports an error word, and the refusal
-- is an answer in the caller's dialect, which Weir gives.
--
-- It passes what json.lua passes, but for top-level keys that two parsers could read differently: model or stream
-- repeated or in another case. They must be UTF-8. Of the limits, which are only estimated with, the last one
-- counts, as with most parsers.
--
-- Where there are lanes, lane.lua stands before this, and takes the requests that need not be asked for.
--
-- Where ASK_FOR_USAGE is set it also asks for the usage of OpenAI streams whose caller did not, and marks the
-- request for hide.lua, which takes it out of the answer.

local gsub = string.gsub

local NAMESPACE = "weir.peek"
local MAX_VALUE = 1024 -- bytes of raw JSON reported for a value; longer is an error
local MAX_NUMBER = 32 -- bytes of a number that is reported; longer ones are not

-- the sequences of more than one byte that UTF-8 has (RFC 3629 section 4)
local SEQUENCES = {
  "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]", "\244[\128-\143][\128-\191][\128-\191]",
}

-- whether s is UTF-8; metadata of anything else cannot be sent, and the request would fail as if Weir had
local function is_utf8(s)
  if not find(s, "[\128-\255]") then return true end
  for i = 1, #SEQUENCES do s = gsub(s, SEQUENCES[i], " ") end
  return not find(s, "[\128-\255]")
end

-- whether word, in any case, stands in s from i
local function is_word(s, i, word)
  for k = 1, #word do
    local c, w = byte(s, i + k - 1), byte(word, k)
    if c ~= w and c ~= w - 32 then return false end
  end
  return true
end

-- The keys of interest by their length. Of the first two another case is an error: a parser may fold it.
local KEYS = {
  [5] = "model", [6] = "stream", [14] = "stream_options",
  [1] = "n", [10] = "max_tokens", [17] = "max_output_tokens", [21] = "max_completion_tokens",
}
local STRICT = { model = true, stream = true }
local NUMBERS = { "n", "max_tokens", "max_output_tokens", "max_completion_tokens" }

-- the key of interest that stands between the quotes at open and close, and whether it is in another case
local function key_of_interest(s, open, close)
  local word = KEYS[close - open - 1]
  if not word then return nil end
  if sub(s, open + 1, close - 1) == word then return word end
  if STRICT[word] and is_word(s, open + 1, word) then return word, true end
end

-- the raw values of this body by their key, and where the value of stream_options begins and ends: nil where there is none, 0 where
-- there are several
local values = {}
local options_from, options_to

-- an error word, or nil
local function peek(s)
  media, media_count = 0, 0
  values.model, values.stream, values.n = nil, nil, nil
  values.max_tokens, values.max_output_tokens, values.max_completion_tokens = nil, nil, nil
  options_from, options_to = nil, nil
  local i, c = skip_space(s, 1)
  if c ~= OPEN_BRACE then return "not_object" end
  local backslash = 0
  i, c = skip_space(s, i + 1)
  while c ~= CLOSE_BRACE do
    local open = i
    local close, from, after
    close, from, after, backslash, i, c = next_member(s, open, c, backslash)
    if not close then return from end
    local key, other_case = key_of_interest(s, open, close)
    if other_case then return "key_case" end
    if key == "model" or key == "stream" then
      if values[key] then return "duplicate_" .. key end
      if after - from > MAX_VALUE then return "long_" .. key end
      local value = sub(s, from, after - 1)
      if not is_utf8(value) then return "not_utf8" end
      values[key] = value
    elseif key == "stream_options" then
      options_from, options_to = options_from and 0 or from, after - 1
    elseif key then
      local first = byte(s, from)
      local number = first == MINUS or first >= ZERO and first <= NINE
      values[key] = number and after - from <= MAX_NUMBER and sub(s, from, after - 1) or nil
    end
  end
  i, c = skip_space(s, i + 1)
  if c then return "trailing" end
end

-- Lua collects its garbage when there is as much of it as there is in use. That is not much here, so that it would begin anew with every few
-- bodies, to find next to nothing that stays. While all of it together is small, it waits longer.
local SMALL = 8192 -- KiB
local USUAL, PATIENT = 200, 500 -- percent of what is in use: how much there is when the next collection begins
local pause = 0

-- makes room for a body
local function make_room(size)
  local wanted = collectgarbage("count") + size / 1024 < SMALL and PATIENT or USUAL
  if wanted == pause then return end
  pause = wanted
  collectgarbage("setpause", pause)
end

-- the text of a body, and what peek says of it
local function read(body, size)
  make_room(size)
  local text = body:getBytes(0, size)
  return text, peek(text)
end

local USAGE = '"include_usage":true'

-- s with a request for the usage of the stream; nil if it has one already, or something in its place that is not
-- understood. The value of stream_options stands from there to there, as peek says.
local function ask_for_usage(s, from, to)
  local new
  if not from then
    from = skip_space(s, 1)
    to, new = from, '{"stream_options":{' .. USAGE .. "},"
  elseif from == 0 then
    return nil
  elseif sub(s, from, to) == "null" then
    new = "{" .. USAGE .. "}"
  elseif byte(s, from) ~= OPEN_BRACE then
    return nil
  else
    local first, last = member(s, from, "include_usage")
    if first == 0 then return nil end
    if first then
      local value = sub(s, first, last)
      if value ~= "false" and value ~= "null" then return nil end
      from, to, new = first, last, "true"
    else
      local _, c = skip_space(s, from + 1)
      to, new = from, "{" .. USAGE .. (c == CLOSE_BRACE and "" or ",")
    end
  end
  return sub(s, 1, from - 1) .. new .. sub(s, to + 1)
end

-- A tunnel has no body that ends: waiting for it would keep Weir from refusing. No answer to the others
-- needs their body.
local BODILESS = { CONNECT = true, GET = true, HEAD = true, DELETE = true, OPTIONS = true }

-- Without any of these the answer is 401 whatever the body says, so it is not worth holding.
local function has_credential(headers)
  return headers:get("authorization") or headers:get("x-api-key") or headers:get("api-key") or headers:get("x-goog-api-key")
end

-- Only these answer with chunks that have their usage in an event of its own, and only when asked. The dialects of
-- Weir do not share the paths.
local function has_stream_options(path)
  local query = find(path, "?", 1, true)
  if query then path = sub(path, 1, query - 1) end
  return find(path, "/completions/?$") ~= nil
end

-- An ID for each request, so that its record can be told by it whatever comes of the decision. Every worker has a Lua of
-- its own, and a new one with every new configuration: where a table of it lies, and when, tells them apart. What stands before
-- the last "-" names the Lua.
local prefix = lanes and lanes.name .. "-"
local serial = 0

local function next_id(handle)
  if not prefix then prefix = match(tostring({}), "%w+$") .. "-" .. handle:timestampString() .. "-" end
  serial = serial + 1
  return prefix .. serial
end

-- Envoy knows which proxies to believe.
local function note_source(stream, found)
  found:set(NAMESPACE, "source", stream:downstreamRemoteAddress())
end

-- requests that are marked for hide.lua, less their streams that have come
local hiding = 0

-- asks for the usage of a stream whose caller did not
local function ask_in_place(body, headers, found, text)
  local ok, asking = pcall(ask_for_usage, text, options_from, options_to)
  if not ok or not asking or not has_stream_options(headers:get(":path")) then return end
  body:setBytes(asking)
  if headers:get("content-length") then headers:replace("content-length", tostring(#asking)) end
  found:set(NAMESPACE, "hide", true)
  hiding = hiding + 1
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if not has_credential(headers) then return end
  local method = headers:get(":method")
  local body = not BODILESS[method] and handle:body()
  local stream = handle:streamInfo() -- Envoy takes back what it gave before it waited for the body
  local found = stream:dynamicMetadata()
  if not body then return note_source(stream, found) end
  local size = body:length()
  if size == 0 then
    found:set(NAMESPACE, "error", "empty")
    return note_source(stream, found)
  end
  -- A failure of Lua itself, as for want of memory, must not look like a request without a body.
  local ok, text, err = pcall(read, body, size)
  if not ok then
    found:set(NAMESPACE, "error", "unreadable")
    return note_source(stream, found)
  end
  local key
  if err then
    found:set(NAMESPACE, "error", err)
  else
    headers = handle:headers()
    if ASK_FOR_USAGE and values.stream == "true" then ask_in_place(body, headers, found, text) end
    if lanes then
      local entered
      entered, key = let_in(handle, headers, found, values, method, size)
      if entered then return end -- nobody reads the rest
    end
    if values.model then found:set(NAMESPACE, "model", values.model) end
    if values.stream then found:set(NAMESPACE, "stream", values.stream) end
    for i = 1, #NUMBERS do
      local value = values[NUMBERS[i]]
      if value then found:set(NAMESPACE, NUMBERS[i], value) end
    end
    if media_count > 0 then
      found:set(NAMESPACE, "media", media)
      found:set(NAMESPACE, "media_count", media_count)
    end
  end
  note_source(stream, found)
  local id = next_id(handle)
  if key then remember(id, key, handle:timestamp()) end
  found:set(NAMESPACE, "id", id)
  found:set(NAMESPACE, "size", size)
  found:set(NAMESPACE, "read", true)
end
