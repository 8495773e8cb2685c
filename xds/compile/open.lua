-- Lets requests through that Weir has not decided because it does not answer, as far as that can be judged here: what is asked
-- for, by path and model, must be of a rule whose backends fail open, and the caller must show a key that the configuration
-- holds the hash of. It sets what the decision would have set and nothing else: no limit, no budget, no endpoint. Everything
-- that it does not understand stays undecided, and gets 503.
--
-- It is the code of one route alone, the one that requests without a decision have. The texts below are what open.go makes of the
-- configuration: lines of fields with tabs between. They are texts because Lua takes no more than 65536 constants.

local byte, find, gmatch, lower, match, sub = string.byte, string.find, string.gmatch, string.lower, string.match, string.sub

local MAX_KEY = 512 -- bytes of a key that is looked up: the keys of `weir keys create` have 57, and longer ones are tokens as a rule
local MAX_MODEL = 256 -- bytes, as in the API types
local STAR = 42

local patterns, entries, targets, lists, keys -- the texts, taken apart when the first request comes

-- the fields of a line
local function fields(line)
  local out, n = {}, 0
  for field in gmatch(line .. "\t", "([^\t]*)\t") do
    n = n + 1
    out[n] = field
  end
  return out
end

local function setup()
  if keys then return end
  patterns, entries, targets, lists = {}, {}, {}, {}
  for line in gmatch(PATTERNS, "([^\n]*)\n") do
    local f = fields(line)
    patterns[#patterns + 1] = { text = f[1], model = f[2] ~= "", method = f[3], dialect = f[4], path = f[5], operation = f[6] }
  end
  for line in gmatch(LISTS, "([^\n]*)\n") do
    local list = { exact = {}, globs = {} }
    for _, name in ipairs(fields(line)) do
      if find(name, "*", 1, true) then list.globs[#list.globs + 1] = name else list.exact[name] = true end
    end
    lists[#lists + 1] = list
  end
  for line in gmatch(ENTRIES, "([^\n]*)\n") do
    local f = fields(line)
    local headers = {}
    for name in gmatch(f[6], "[^,]+") do headers[#headers + 1] = name end
    entries[#entries + 1] = {
      method = f[1], exact = f[2] ~= "", path = f[3], models = lists[tonumber(f[4])], labels = f[5], headers = headers,
      query = f[7] ~= "", scopes = f[8], rule = f[9], name = f[10], apart = f[11] ~= "",
    }
  end
  for rule, dialect, model, key in gmatch(TARGETS, "([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\n]*)\n") do
    targets[rule .. "\t" .. dialect .. "\t" .. model] = key
  end
  local all = {}
  for hash, rest in gmatch(KEYS, "(%x+)\t([^\n]*)\n") do all[hash] = rest end
  keys = all
end

-- whether a pattern matches a name: as far as it gets, and then back to the last star
local function glob(pattern, name)
  local p, n = 1, 1
  local star, again
  while n <= #name do
    local c = byte(pattern, p)
    if c == STAR then
      star, again = p, n
      p = p + 1
    elseif c == byte(name, n) then
      p, n = p + 1, n + 1
    elseif star then
      again = again + 1
      p, n = star + 1, again
    else
      return false
    end
  end
  while byte(pattern, p) == STAR do p = p + 1 end
  return p > #pattern
end

local function admits(list, model)
  if list.exact[model] then return true end
  for _, pattern in ipairs(list.globs) do
    if glob(pattern, model) then return true end
  end
  return false
end

-- how many bytes of the end of a path are a pattern's; nil where it is another path
local function matched(p, path)
  local head, size = path, 0
  if p.model then -- the last segment is a model's name
    head = match(path, "^(.*/)[^/]+$")
    if not head then return nil end
    size = #path - #head
  end
  local prefix = #head - #p.text
  if prefix < 0 or sub(head, prefix + 1) ~= p.text then return nil end
  if prefix > 0 and (byte(head, 1) ~= 47 or byte(head, prefix) == 47) then return nil end
  return #p.text + size
end

-- the pattern that a request means, as adapters.Classify finds it; nil for none that is let through
local function classify(method, path)
  local best, length, found = nil, 0, false
  for _, p in ipairs(patterns) do
    local n = matched(p, path)
    if n and (n > length or n == length and not found and p.method == method) then
      best, length, found = p, n, p.method == method
    end
  end
  return found and best.operation ~= "" and best or nil
end

-- whether the one header is there once at most, and its value
local function single(headers, name)
  if headers:getNumValues(name) > 1 then return false end
  return true, headers:get(name)
end

-- whether Weir would read a body that calls itself so
local function is_json(headers)
  local once, encoding = single(headers, "content-encoding")
  if not once or encoding and encoding ~= "" and lower(encoding) ~= "identity" then return false end
  local kind
  once, kind = single(headers, "content-type")
  if not once then return false end
  if not kind or kind == "" then return true end
  kind = lower(kind)
  local name = match(kind, "^%s*([^;]-)%s*$") or match(kind, "^%s*([^;]-)%s*;")
  if name ~= "application/json" and sub(name, -5) ~= "+json" then return false end
  if find(kind, "charset", 1, true) then
    local charset = match(kind, ';%s*charset="?([^;"%s]+)"?%s*$')
    return charset == "utf-8" or charset == "us-ascii"
  end
  return true
end

local CREDENTIALS = { "authorization", "x-api-key", "api-key", "x-goog-api-key" }

-- the one credential of a request, as the package identity reads it; nil where it would refuse
local function credential(headers)
  local found
  for _, name in ipairs(CREDENTIALS) do
    local once, value = single(headers, name)
    if not once then return nil end
    if value then
      if name == "authorization" then
        local scheme, rest = match(value, "^([^ ]*) *(.*)$")
        scheme = lower(scheme)
        if scheme ~= "bearer" and scheme ~= "apikey" then return nil end
        value = rest
      end
      if value == "" or #value > MAX_KEY or find(value, "[^\33-\126]") then return nil end
      if found and found ~= value then return nil end
      found = value
    end
  end
  return found
end

-- the model and the stream flag of a request whose body the peek filter has understood
local function asked(found)
  if not found or found.error or not found.read then return nil end
  -- An escape may spell anything: names with one are not looked at.
  local model = found.model and match(found.model, '^"([^"\\%c]+)"$')
  if not model or #model > MAX_MODEL or find(model, "\194[\128-\159]") then return nil end
  local stream = found.stream
  if stream and stream ~= "true" and stream ~= "false" and stream ~= "null" then return nil end
  return model, stream == "true"
end

-- whether a caller meets a requirement of the configuration; "" is none
local function meets(caller, requirement)
  return requirement == "" or find(caller.meets, "," .. requirement .. ",", 1, true) ~= nil
end

-- whether an entry's path, which ends with no slash unless it is exact, is that of a request
local function is_below(e, path)
  if e.exact then return path == e.path end
  return sub(path, 1, #e.path) == e.path and (#path == #e.path or byte(path, #e.path + 1) == 47)
end

-- the entry that a request is of, the first that matches; nil where there is none, or where it cannot be told
local function entry_of(headers, method, path, query, model, caller)
  for _, e in ipairs(entries) do
    if (e.method == "" or e.method == method) and is_below(e, path) and (not e.models or admits(e.models, model))
      and meets(caller, e.labels) then
      -- Headers and queries are not compared, but what is not there cannot match.
      local possible = not e.query or query
      for _, name in ipairs(e.headers) do possible = possible and headers:get(name) end
      if possible then
        -- Nor is told here which gateway a request came in by.
        if e.apart or e.query or #e.headers > 0 then return nil end
        return e
      end
    end
  end
end

-- who shows a key; nil for nobody that may
local function caller_of(handle, headers, model)
  local key = credential(headers)
  local line = key and keys[sha256(key)]
  if not line then return nil end
  local f = fields(line)
  local caller = { expires = tonumber(f[1]), consumer = f[2], tenant = f[3], credential = f[4], meets = f[5] }
  if caller.expires > 0 and tonumber(handle:timestampString()) >= caller.expires then return nil end
  for n in gmatch(f[6], "%d+") do
    if not admits(lists[tonumber(n)], model) then return nil end
  end
  return caller
end

-- notes the request's place in a trace: the caller's trace if it names one, with spans of this request's own. Several lines are none.
local function note_place(note, headers, id)
  local header = headers:get("traceparent") -- several lines are joined by ","
  local hash = sha256(id)
  local known, rest = sub(header or "", 1, 55), sub(header or "", 56)
  local version, trace, parent, flags = match(known, "^(%x%x)%-(%x+)%-(%x+)%-(%x%x)$")
  if not trace or #trace ~= 32 or lower(known) ~= known or match(trace, "^0+$") or match(parent, "^0+$") or version == "ff" or
    (rest ~= "" and (version == "00" or byte(rest) ~= 45)) then
    trace, parent, flags = sub(hash, 16, 47), "", "00"
  end
  note("trace", "00-" .. trace .. "-" .. sub(hash, 1, 15))
  note("trace_flags", tonumber(flags, 16) % 2 == 1 and "-01" or "-00")
  if parent ~= "" then note("trace_parent", parent) else headers:remove("tracestate") end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(RULE_HEADER) ~= UNDECIDED then return end
  setup()
  local method, path = headers:get(":method"), headers:get(":path")
  local query = find(path, "?", 1, true)
  if query then path = sub(path, 1, query - 1) end
  if #path > 1 and byte(path, -1) == 47 then path = sub(path, 1, -2) end
  local meant = classify(method, path)
  if not meant or headers:get("upgrade") or find(headers:get(":authority") or "", ",", 1, true) or not is_json(headers) then return end
  local peeked = handle:streamInfo():dynamicMetadata():get(PEEK_NAMESPACE)
  local model, streaming = asked(peeked)
  if not model then return end
  local caller = caller_of(handle, headers, model)
  if not caller then return end
  local entry = entry_of(headers, method, path, query, model, caller)
  if not entry or not meets(caller, entry.scopes) then return end
  local at = entry.rule .. "\t" .. meant.dialect .. "\t"
  local route = targets[at .. model] or targets[at]
  if not route or route == "" then return end

  local decided = handle:streamInfo():dynamicMetadata()
  local function note(key, value) decided:set(NAMESPACE, key, value) end
  note("open", "true")
  note("route", entry.name)
  note("dialect", meant.dialect)
  note("operation", meant.operation)
  note("model", model)
  note("consumer", caller.consumer)
  note("tenant", caller.tenant)
  note("credential", caller.credential)
  if streaming then note("stream", "true") end
  note_place(note, headers, peeked["id"] or "")
  headers:replace(PATH_HEADER, meant.path)
  headers:replace(RULE_HEADER, route)
end
