-- Reads the model and the stream flag of a JSON request body, so that Weir can decide without seeing
-- the body. What it finds goes into dynamic metadata as raw JSON; Weir judges it. It refuses nothing
-- itself: it reports an error word, and the refusal is an answer in the caller's dialect, which Weir gives.
--
-- It passes all JSON (RFC 8259) that nests no deeper than MAX_DEPTH, but for top-level keys that two
-- parsers could read differently: model or stream repeated or in another case, any key with an escape or
-- with bytes above 127 (some parsers fold those onto ASCII letters).
--
-- It is not a whole JSON parser: it builds no tree, and checks no more than keeps a parser that is lenient
-- about comments, quotes, bare keys or escapes from seeing other strings, and so another model, than it
-- did. The top level is strict, as are escapes and the kinds of brackets everywhere. Inside nested values
-- the bytes between strings are checked one by one, not as a grammar: [1 2,,tt] passes. In strings that are
-- values, control characters and bytes that are not UTF-8 pass (but not in the model and the stream flag).

local byte, find, sub, gsub = string.byte, string.find, string.sub, string.gsub

local NAMESPACE = "weir.peek"
local MAX_VALUE = 1024 -- bytes of raw JSON reported for a value; longer is an error
local MAX_DEPTH = 10000 -- objects and arrays in each other, the outermost included; that of Go's encoding/json
local WALK = 12 -- bytes that are cheaper to look at one by one than to search through

local QUOTE, BACKSLASH, COLON, COMMA = 34, 92, 58, 44
local OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET = 123, 125, 91
local MINUS, PLUS, DOT, ZERO, NINE = 45, 43, 46, 48, 57

-- the set of the bytes of s
local function bytes(s)
  local set = {}
  for i = 1, #s do set[byte(s, i)] = true end
  return set
end

local BETWEEN = bytes(" \t\r\n,:0123456789.eE+-truefalsn") -- what stands between the strings and brackets of a value
local ESCAPED = bytes('"\\/bfnrt') -- what may follow a backslash, but for u
local HEX = bytes("0123456789abcdefABCDEF")
local LITERALS = { [102] = "false", [110] = "null", [116] = "true" } -- by the first byte

-- the closing brackets awaited by the nested values around one; kept, so that small values allocate nothing
local stack = {}

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

-- position of the quote that closes the string opened at i, and the first backslash from there or any
-- position before; nil if nothing closes it or an escape in it is not one of JSON.
-- backslash is the first from i, or any position before i for not known.
local function string_end(s, i, backslash)
  i = i + 1
  -- short strings, and escapes close to each other
  local c = byte(s, i)
  local far = i + WALK
  while i < far do
    if c == QUOTE then return i, backslash end
    if c == BACKSLASH then
      c = byte(s, i + 1)
      if c == 117 then -- u
        if not (HEX[byte(s, i + 2)] and HEX[byte(s, i + 3)] and HEX[byte(s, i + 4)] and HEX[byte(s, i + 5)]) then return nil end
        i = i + 6
      elseif ESCAPED[c] then
        i = i + 2
      else
        return nil
      end
      far = i + WALK
    else
      i = i + 1
    end
    c = byte(s, i)
    if not c then return nil end
    if i == far then
      local quote = find(s, '"', i, true)
      if not quote then return nil end
      if backslash < i then backslash = find(s, "\\", i, true) or #s + 1 end
      if quote < backslash then return quote, backslash end
      i = backslash
      c = BACKSLASH
      far = i + WALK
    end
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

-- first position from i that is no digit, and the byte there; nil if i is none
local function skip_digits(s, i)
  local start = i
  local c = byte(s, i)
  while c and c >= ZERO and c <= NINE do
    i = i + 1
    c = byte(s, i)
  end
  if i == start then return nil end
  return i, c
end

-- position after the number that starts at i with byte c; nil if it is none
local function skip_number(s, i, c)
  if c == MINUS then
    i = i + 1
    c = byte(s, i)
  end
  if c == ZERO then
    i = i + 1
    c = byte(s, i)
  else
    i, c = skip_digits(s, i)
  end
  if c == DOT then i, c = skip_digits(s, i + 1) end
  if c == 101 or c == 69 then -- e, E
    c = byte(s, i + 1)
    if c == PLUS or c == MINUS then i = i + 1 end
    i = skip_digits(s, i + 1)
  end
  return i
end

-- position after the object or array that starts at i with byte c, and backslash; or nil and an error word
local function skip_nested(s, i, c, backslash)
  local depth = 1 -- the outermost object
  local close = 0
  while true do
    if BETWEEN[c] then
      -- nothing to learn
    elseif c == QUOTE then
      i, backslash = string_end(s, i, backslash)
      if not i then return nil, "syntax" end
    elseif c == OPEN_BRACE or c == OPEN_BRACKET then
      if depth == MAX_DEPTH then return nil, "too_deep" end
      stack[depth] = close
      depth = depth + 1
      close = c + 2
    elseif c == close then
      depth = depth - 1
      if depth == 1 then return i + 1, backslash end
      close = stack[depth]
    else
      return nil, "syntax"
    end
    i = i + 1
    c = byte(s, i)
  end
end

-- position after the value that starts at i with byte c, and backslash; or nil and an error word
local function skip_value(s, i, c, backslash)
  if c == QUOTE then
    i, backslash = string_end(s, i, backslash)
    if not i then return nil, "syntax" end
    return i + 1, backslash
  end
  if c == OPEN_BRACE or c == OPEN_BRACKET then return skip_nested(s, i, c, backslash) end
  local literal = LITERALS[c]
  if not literal then
    i = skip_number(s, i, c)
    if not i then return nil, "syntax" end
    return i, backslash
  end
  if sub(s, i, i + #literal - 1) ~= literal then return nil, "syntax" end
  return i + #literal, backslash
end

-- position of the quote that closes the top-level key opened at i; or nil and an error word
local function key_end(s, i)
  local c
  repeat
    i = i + 1
    c = byte(s, i)
    if not c or c < 32 then return nil, "syntax" end
    if c == BACKSLASH then return nil, "escaped_key" end
    if c > 127 then return nil, "key_not_ascii" end
  until c == QUOTE
  return i
end

-- whether word, in any case, stands in s from i
local function is_word(s, i, word)
  for k = 1, #word do
    local c, w = byte(s, i + k - 1), byte(word, k)
    if c ~= w and c ~= w - 32 then return false end
  end
  return true
end

-- the key between the quotes at open and close, if it is model or stream in any case
local function key_of_interest(s, open, close)
  local size = close - open - 1
  if (size == 5 and is_word(s, open + 1, "model")) or (size == 6 and is_word(s, open + 1, "stream")) then
    return sub(s, open + 1, close - 1)
  end
end

-- an error word (or nil), the raw model, the raw stream flag
local function peek(s)
  local i, c = skip_space(s, 1)
  if c ~= OPEN_BRACE then return "not_object" end
  local model, stream
  local backslash = 0
  i, c = skip_space(s, i + 1)
  while c ~= CLOSE_BRACE do
    if c ~= QUOTE then return "syntax" end
    local close, key_error = key_end(s, i)
    if not close then return key_error end
    local key = key_of_interest(s, i, close)
    i, c = skip_space(s, close + 1)
    if c ~= COLON then return "syntax" end
    i, c = skip_space(s, i + 1)
    local after, rest = skip_value(s, i, c, backslash)
    if not after then return rest end
    backslash = rest
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
    elseif key then
      return "key_case"
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

-- A tunnel has no body that ends: waiting for it would keep Weir from refusing. No answer to the others
-- needs their body.
local BODILESS = { CONNECT = true, GET = true, HEAD = true, DELETE = true, OPTIONS = true }

-- Without any of these the answer is 401 whatever the body says, so it is not worth holding.
local function has_credential(headers)
  return headers:get("authorization") or headers:get("x-api-key") or headers:get("api-key") or headers:get("x-goog-api-key")
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if BODILESS[headers:get(":method")] or not has_credential(headers) then return end
  local body = handle:body()
  if not body then return end
  local size = body:length()
  local found = handle:streamInfo():dynamicMetadata()
  if size == 0 then
    found:set(NAMESPACE, "error", "empty")
    return
  end
  -- A failure of Lua itself, as for want of memory, must not look like a request without a body.
  local ok, err, model, stream = pcall(function() return peek(body:getBytes(0, size)) end)
  if not ok then
    found:set(NAMESPACE, "error", "unreadable")
    return
  end
  if err then found:set(NAMESPACE, "error", err) end
  if model then found:set(NAMESPACE, "model", model) end
  if stream then found:set(NAMESPACE, "stream", stream) end
  found:set(NAMESPACE, "read", true)
end
