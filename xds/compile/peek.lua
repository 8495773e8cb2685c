-- Reads the model and the stream flag of a JSON request body, so that Weir can decide without seeing
-- the body. It builds no tree: it walks the top level, and hops over strings with a plain search for
-- the quote, so a long prompt costs little. What it finds goes into dynamic metadata as raw JSON; Weir
-- judges it. It refuses nothing itself: a refusal is an answer in the caller's dialect, which Weir gives.
--
-- Top-level keys that two parsers could read differently (repeated, spelled with escapes or in another
-- case) are reported as errors: what the policy saw must be what the provider will see.

local byte, find, sub, gsub, lower = string.byte, string.find, string.sub, string.gsub, string.lower

local NAMESPACE = "weir.peek"
local MAX_VALUE = 1024 -- bytes of raw JSON reported for a value; longer is an error

local QUOTE, BACKSLASH, COLON, COMMA = 34, 92, 58, 44
local OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET = 123, 125, 91, 93

-- the sequences of more than one byte that UTF-8 has (RFC 3629 section 4)
local SEQUENCES = {
  "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]", "\244[\128-\143][\128-\191][\128-\191]",
}

-- whether s is UTF-8; metadata of anything else cannot be sent, and the request would fail as if Weir had
local function is_utf8(s)
  for _, sequence in ipairs(SEQUENCES) do s = gsub(s, sequence, " ") end
  return not find(s, "[\128-\255]")
end

-- position of the quote that closes the string opened at i; nil if none does
local function string_end(s, i)
  local from = i + 1
  while true do
    local q = find(s, '"', from, true)
    if not q then return nil end
    local b = q - 1
    while byte(s, b) == BACKSLASH do b = b - 1 end
    if (q - b) % 2 == 1 then return q end
    from = q + 1
  end
end

-- first position from i that is not white space, and the byte there
local function skip_space(s, i)
  local c = byte(s, i)
  while c == 32 or c == 10 or c == 13 or c == 9 do
    i = i + 1
    c = byte(s, i)
  end
  return i, c
end

-- position after the value that starts at i with byte c; nil if it does not end
local function skip_value(s, i, c)
  if c == QUOTE then
    local e = string_end(s, i)
    return e and e + 1
  end
  if c == OPEN_BRACE or c == OPEN_BRACKET then
    local depth = 0
    while c do
      if c == QUOTE then
        i = string_end(s, i)
        if not i then return nil end
      elseif c == OPEN_BRACE or c == OPEN_BRACKET then
        depth = depth + 1
      elseif c == CLOSE_BRACE or c == CLOSE_BRACKET then
        depth = depth - 1
        if depth == 0 then return i + 1 end
      end
      i = i + 1
      c = byte(s, i)
    end
    return nil
  end
  local start = i
  while c and c > 32 and c ~= COMMA and c ~= CLOSE_BRACE and c ~= CLOSE_BRACKET do
    i = i + 1
    c = byte(s, i)
  end
  if i == start then return nil end
  return i
end

-- an error word (or nil), the raw model, the raw stream flag
local function peek(s)
  local i, c = skip_space(s, 1)
  if c ~= OPEN_BRACE then return "not_object" end
  local model, stream
  i, c = skip_space(s, i + 1)
  while c ~= CLOSE_BRACE do
    if c ~= QUOTE then return "syntax" end
    local key_end = string_end(s, i)
    if not key_end then return "syntax" end
    local key = sub(s, i + 1, key_end - 1)
    i, c = skip_space(s, key_end + 1)
    if c ~= COLON then return "syntax" end
    i, c = skip_space(s, i + 1)
    local after = skip_value(s, i, c)
    if not after then return "syntax" end
    if key == "model" then
      if model then return "duplicate_model" end
      if after - i > MAX_VALUE then return "long_model" end
      model = sub(s, i, after - 1)
      if not is_utf8(model) then return "not_utf8" end
    elseif key == "stream" then
      if stream then return "duplicate_stream" end
      if after - i > MAX_VALUE then return "long_stream" end
      stream = sub(s, i, after - 1)
      if not is_utf8(stream) then return "not_utf8" end
    elseif find(key, "\\", 1, true) then
      return "escaped_key"
    else
      local folded = lower(key)
      if folded == "model" or folded == "stream" then return "key_case" end
    end
    i, c = skip_space(s, after)
    if c == COMMA then
      i, c = skip_space(s, i + 1)
      if c ~= QUOTE then return "syntax" end
    elseif c ~= CLOSE_BRACE then
      return "syntax"
    end
  end
  i, c = skip_space(s, i + 1)
  if c then return "trailing" end
  return nil, model, stream
end

function envoy_on_request(handle)
  -- A tunnel has no body that ends; waiting for it would keep Weir from refusing.
  if handle:headers():get(":method") == "CONNECT" then return end
  local body = handle:body()
  if not body then return end
  local size = body:length()
  local found = handle:streamInfo():dynamicMetadata()
  if size == 0 then
    found:set(NAMESPACE, "error", "empty")
    return
  end
  local err, model, stream = peek(body:getBytes(0, size))
  if err then found:set(NAMESPACE, "error", err) end
  if model then found:set(NAMESPACE, "model", model) end
  if stream then found:set(NAMESPACE, "stream", stream) end
  found:set(NAMESPACE, "read", true)
end
