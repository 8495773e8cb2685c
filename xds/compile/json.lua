-- Walks through JSON without building anything of it. peek.lua and hide.lua stand behind this in one source.
--
-- It passes all JSON (RFC 8259) that nests no deeper than MAX_DEPTH, but for keys of the objects that it takes
-- apart with an escape or with bytes above 127 (some parsers fold those onto ASCII letters).
--
-- It is not a whole JSON parser: it builds no tree, and checks no more than keeps a parser that is lenient
-- about comments, quotes, bare keys or escapes from seeing other strings, and so another model, than it
-- did. The top level is strict, as are escapes and the kinds of brackets everywhere. Inside nested values
-- the bytes between strings are checked one by one, not as a grammar: [1 2,,tt] passes. In strings that are
-- values, control characters and bytes that are not UTF-8 pass.

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local MAX_DEPTH = 10000 -- objects and arrays in each other, the outermost included; that of Go's encoding/json
local WALK = 12 -- bytes that are cheaper to look at one by one than to search through
local LONG = 8192 -- bytes that a string has at least that may be media: images and sound in base64 are longer, as a rule
local SAMPLE = 256 -- bytes of such a string that are looked at
local AROUND = 512 -- bytes before and after such a string that say what it is
local MEDIA_DEPTH = 16 -- objects and arrays that media may be in; the dialects need 8

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

-- where the nested values around one open, from the second depth on; kept, so that small values allocate nothing
local stack = {}

-- bytes and number of the strings of this body that are media
local media, media_count = 0, 0

-- Media stand where the dialects put them, under these keys. Nothing else may look like them, however it is written: text
-- that counted as an image would pass limits of tokens.
local MEDIA_PATH = {
  messages = true, content = true, output = true, source = true, input_audio = true, image_url = true, video_url = true,
  file = true,
}
-- the keys of media without a type of its own, and of those that are a data URL
local MEDIA_KEY = { file_data = true, image_data = true, b64_json = true }
local URL_KEY = { url = true, image_url = true, image = true, audio = true, video = true }
-- the types that are no text; of files PDF alone
local MEDIA_TYPE = { image = true, audio = true, video = true }

-- the key of the value that opens at i; nil if it is an item of an array, or the key has other bytes than those of names
local function key_before(s, i)
  return match(sub(s, i < 65 and 1 or i - 64, i - 1), '[^\\]"([%w_]+)"%s*:%s*$')
end

-- whether the values around one, down to that depth, all stand where media may
local function media_path(s, depth)
  if depth > MEDIA_DEPTH then return false end
  for d = 2, depth do
    local key = key_before(s, stack[d])
    if not key then
      -- an item of an array
      if d == 2 or byte(s, stack[d - 1]) ~= OPEN_BRACKET then return false end
    elseif not MEDIA_PATH[key] and (d > 2 or key ~= "input") then
      return false
    end
  end
  return true
end

-- whether the object around the string, which opens at first, says that it is base64 and not text
local function says_base64(s, first, open, close)
  if open - first > AROUND then return false end
  local before = sub(s, first + 1, open)
  local after = match(sub(s, close, close + AROUND), "^[^{}%[%]]*}")
  if not after or find(before, "[{}%[%]]") then return false end
  local around = before .. after
  if find(around, "\\u", 1, true) or find(around, '"type"%s*:%s*"text"') or find(around, '"text\\?/') then return false end
  return find(around, '"type"%s*:%s*"base64"') ~= nil
end

-- counts the string between the quotes at open and close, in a nested value at that depth, if it is media: by the keys
-- before it, and by its beginning, which is base64, or a data URL of base64 whose type is no text
local function count_media(s, open, close, depth)
  local start = sub(s, open + 1, open + SAMPLE)
  if find(start, "[^%w+/=_:;,.\\-]") then return end
  local around = stack[depth]
  local key = key_before(s, byte(s, around) == OPEN_BRACKET and around or open)
  if not key then return end
  if find(start, "^data:") then
    if not URL_KEY[key] and not MEDIA_KEY[key] then return end
    if not find(start, ";base64,", 1, true) then return end
    if not MEDIA_TYPE[match(start, "^data:(%l+)")] and not find(start, "^data:application\\?/pdf;") then return end
  elseif key == "data" then
    local parent = key_before(s, around)
    if parent ~= "input_audio" and not (parent == "source" and says_base64(s, around, open, close)) then return end
  elseif not MEDIA_KEY[key] then
    return
  end
  -- a list of pictures is the last thing on the path, under a key of its own
  if not media_path(s, byte(s, around) == OPEN_BRACKET and depth - 1 or depth) then return end
  media = media + close - open - 1
  media_count = media_count + 1
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
  local close = 0 -- the bracket that is awaited
  while true do
    if BETWEEN[c] then
      -- nothing to learn
    elseif c == QUOTE then
      local open = i
      i, backslash = string_end(s, i, backslash)
      if not i then return nil, "syntax" end
      if i - open > LONG then count_media(s, open, i, depth) end
    elseif c == OPEN_BRACE or c == OPEN_BRACKET then
      if depth == MAX_DEPTH then return nil, "too_deep" end
      depth = depth + 1
      stack[depth] = i
      close = c + 2
    elseif c == close then
      depth = depth - 1
      if depth == 1 then return i + 1, backslash end
      close = byte(s, stack[depth]) + 2
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

-- the member of an object whose key opens at i with byte c: where the key closes, where the value begins, the position
-- after it, backslash, and position and byte of what follows: the next key, or the end of the object. Or nil and an
-- error word.
local function next_member(s, i, c, backslash)
  if c ~= QUOTE then return nil, "syntax" end
  local close, key_error = key_end(s, i)
  if not close then return nil, key_error end
  local from
  from, c = skip_space(s, close + 1)
  if c ~= COLON then return nil, "syntax" end
  from, c = skip_space(s, from + 1)
  local after
  after, backslash = skip_value(s, from, c, backslash)
  if not after then return nil, backslash end
  i, c = skip_space(s, after)
  if c == COMMA then
    i, c = skip_space(s, i + 1)
    if c ~= QUOTE then return nil, "syntax" end
  elseif c ~= CLOSE_BRACE then
    return nil, "syntax"
  end
  return close, from, after, backslash, i, c
end

-- where the value of a member of the object that opens at i begins and ends: nil where there is none, 0 where that cannot
-- be told
local function member(s, i, name)
  local first, last, c
  i, c = skip_space(s, i + 1)
  while c ~= CLOSE_BRACE do
    local open = i
    local close, from, after, _
    close, from, after, _, i, c = next_member(s, open, c, 0)
    if not close then return 0 end
    if sub(s, open + 1, close - 1) == name then
      if first then return 0 end
      first, last = from, after - 1
    end
  end
  return first, last
end
