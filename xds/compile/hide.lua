-- Takes the usage out of a streamed answer whose caller did not ask for it; peek.lua asked in their place. It is one event
-- of its own, with no choices. All other bytes stay as they are, and nothing waits but an event that has begun and may be
-- the one.

local lower = string.lower

-- An event this large is none that has the usage: it is not held.
local MAX_HELD = 64 * 1024

-- whether s has a key "usage" somewhere with an object as its value
local function names_usage(s)
  local i, c
  local at = find(s, '"usage"', 1, true)
  while at do
    i, c = skip_space(s, at + 7)
    if c == COLON then
      i, c = skip_space(s, i + 1)
      if c == OPEN_BRACE then return true end
    end
    at = find(s, '"usage"', at + 7, true)
  end
  return false
end

-- whether an event is the one to take out
local function is_usage(event)
  if not names_usage(event) then return false end
  local lines = {}
  for line in string.gmatch(event, "[^\r\n]+") do
    if sub(line, 1, 5) == "data:" then lines[#lines + 1] = sub(line, 6) end
  end
  local data = table.concat(lines, "\n")
  local i, c = skip_space(data, 1)
  if c ~= OPEN_BRACE then return false end
  local from, to = member(data, i, "choices")
  if not to or not find(sub(data, from, to), "^%[%s*%]$") then return false end
  from, to = member(data, i, "usage")
  return to ~= nil and byte(data, from) == OPEN_BRACE
end

-- position of the last byte of the event that begins at i; nil if it has not ended
local function event_end(s, i)
  local newline = find(s, "\n", i, true)
  while newline do
    local c = byte(s, newline + 1)
    if c == 10 then return newline + 1 end
    if c == 13 and byte(s, newline + 2) == 10 then return newline + 2 end
    newline = find(s, "\n", newline + 1, true)
  end
end

-- whether the event that begins at i, and has not ended, may be the one to take out
local function may_be_usage(s, i)
  local size = #s - i + 1
  if size > MAX_HELD then return false end
  -- Lines may end with a carriage return alone. Nobody sends such; where one comes, its end would not be seen.
  if find(s, "\r[^\n]", i) then return false end
  local start = sub(s, i, i + 4)
  if start ~= "data:" then
    -- the beginning of a field; but nothing waits for the end of a comment
    return byte(s, i) ~= COLON and find(start, "^%l") ~= nil
  end
  local _, c = skip_space(s, i + 5)
  return c == nil or c == OPEN_BRACE
end

-- what may go on of s, and what has to wait
local function sift(s)
  local out = {}
  local start, kept = 1, 1
  local stop = event_end(s, 1)
  while stop do
    local first = find(s, "[^\r\n]", start)
    if first and first < stop and is_usage(sub(s, first, stop)) then
      out[#out + 1] = sub(s, kept, first - 1)
      kept = stop + 1
    end
    start = stop + 1
    stop = event_end(s, start)
  end
  start = find(s, "[^\r\n]", start)
  if start and may_be_usage(s, start) then
    out[#out + 1] = sub(s, kept, start - 1)
    return table.concat(out), sub(s, start)
  end
  out[#out + 1] = sub(s, kept)
  return table.concat(out), ""
end

-- whether s is whole events, and none of them the one to take out
local function passes(s)
  if byte(s, -1) ~= 10 then return false end
  local c = byte(s, -2)
  if c ~= 10 and not (c == 13 and byte(s, -3) == 10) then return false end
  return not names_usage(s)
end

function envoy_on_response(handle)
  if lanes then learn(handle) end
  -- Streams that never come leave it too high, which costs a look at the headers and no more.
  if hiding == 0 then return end
  local headers = handle:headers()
  local kind = headers:get("content-type")
  if not kind or sub(lower(kind), 1, 17) ~= "text/event-stream" then return end
  local found = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  if not found or not found.hide then return end
  hiding = hiding - 1
  if headers:get(":status") ~= "200" or headers:get("content-encoding") then return end
  headers:remove("content-length")
  local held = ""
  for chunk in handle:bodyChunks() do
    local text = chunk:getBytes(0, chunk:length())
    if held ~= "" or not passes(text) then
      local out
      out, held = sift(held .. text)
      if out ~= text then chunk:setBytes(out) end
    end
  end
end
