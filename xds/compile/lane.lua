-- Lets requests through that Weir has decided in advance, without asking it. What Weir has let in ahead, it says in a file that both
-- have mapped (LANE_FILE; package extproc/lane has its layout): a lane is a slot of it that only this Lua state uses, for
-- requests that are equal in everything a decision depends on. The decision about the first of them carries the lane; what it said
-- of that request is said of those in the lane as well, but for what differs: the exchange, the place in a trace, what is left of
-- limits.
--
-- Where the file cannot be mapped there are no lanes, and no error.

local ceil, frexp, ldexp, random, format = math.ceil, math.frexp, math.ldexp, math.random, string.format

local PEEK, DECISION = "weir.peek", "weir"
local MAX_LANES = 4096 -- more, and this begins anew
local MAX_ASKED = 1024 -- requests of a generation that are being asked for
local MAX_WAIT = 60000 -- milliseconds of a generation, while requests come: a lane begins with another request whose answer took longer
local MAX_KEY = 4096 -- bytes of a key: what is longer is asked for each time
local PATIENCE, SELDOM = 64, 16 -- where so many requests in a row have come by no lane, only one in so many is looked at for one

local MAGIC, LAYOUT, SLOTS = 0x52494557, 1, 4096
local SIZE = 64 + 64 * SLOTS

-- What a request has of its own among the facts of its decision.
local OWN = {
  exchange = true, trace = true, trace_flags = true, trace_parent = true,
  lane = true, lane_rule = true, lane_path = true, lane_vary = true, lane_sample = true,
  ["x-ratelimit-remaining-requests"] = true, ["x-ratelimit-reset-requests"] = true,
  ["x-ratelimit-remaining-tokens"] = true, ["x-ratelimit-reset-tokens"] = true,
}

-- The file, mapped, and a name for this Lua state that no other has.
local function map()
  local ffi = require("ffi")
  ffi.cdef [[
    int open(const char *, int, ...);
    long lseek(int, long, int);
    void *mmap(void *, size_t, int, int, int, long);
    int munmap(void *, size_t);
    int close(int);
    int fcntl(int, int, ...);
    typedef struct { short type, whence; long start, len; int pid; } weir_lock;
  ]]
  local C = ffi.C
  local fd = C.open(LANE_FILE, 0x80002) -- O_RDWR | O_CLOEXEC
  if fd < 0 then return nil end
  -- Whoever reads beyond the end of a file dies of it.
  local memory = C.lseek(fd, 0, 2) >= SIZE and C.mmap(nil, SIZE, 3, 1, fd, 0) -- SEEK_END, PROT_READ | PROT_WRITE, MAP_SHARED
  if not memory or ffi.cast("intptr_t", memory) == -1 then
    C.close(fd)
    return nil
  end
  memory = ffi.gc(memory, function(at)
    C.munmap(at, SIZE)
    C.close(fd)
  end)
  -- Weir writes these while they are read: nothing may be kept of them.
  local head = ffi.cast("struct { volatile uint32_t magic, layout; volatile double alive; } *", memory)
  if head.magic ~= MAGIC or head.layout ~= LAYOUT then return nil end
  local slots = ffi.cast([[struct {
    volatile uint32_t generation, granted, used, unused;
    volatile double requests, requests_reset, tokens, tokens_reset, each, bytes_per_token;
  } *]], ffi.cast("char *", memory) + 64)

  local source = io.open("/dev/urandom", "rb")
  local bytes = source and source:read(16)
  if source then source:close() end
  if not bytes or #bytes < 16 then return nil end
  local seed, name = 0, ""
  for i = 1, 6 do seed = seed * 256 + byte(bytes, i) end
  for i = 9, 16 do name = name .. format("%02x", byte(bytes, i)) end
  math.randomseed(seed)

  -- Weir has a lock on the file as long as it lives.
  local lock = ffi.new("weir_lock")
  local function alive()
    lock.type, lock.whence, lock.start, lock.len, lock.pid = 0, 0, 0, 0, 0 -- F_RDLCK, SEEK_SET
    return C.fcntl(fd, 36, lock) == 0 and lock.type == 1 -- F_OFD_GETLK, F_WRLCK
  end
  return { memory = memory, head = head, slots = slots, name = name, alive = alive }
end

local mapped, lanes = pcall(map)
if not mapped then lanes = nil end

-- Lanes by what makes requests equal, and how many they are.
local by_key, lane_count = {}, 0
-- What has been asked of Weir, by the ID of the request: the key, and the headers that it was made with. Requests whose answers never
-- come must not stay for ever: there are two generations, and when the newer one is full or old, the older one goes.
local asked, asked_count, asked_since = {}, 0, 0
local asked_before, before_count = {}, 0
-- The further headers that decisions depend on, by the configuration that is live: "a,b", and each.
local vary, vary_names = "", {}

local NONE = "\r" -- in the place of a header that is not there; none has such a value, and none has a line feed

-- what makes requests equal; nil for one that is asked for each time. A decision looks at several lines of a header in its own way, so
-- those are not told from here. Model and stream are raw JSON and may hold anything, but then no lane is of them: those have as many
-- line feeds as there are here.
local function key_of(headers, method, values, size)
  local model, authority, kind = values.model, headers:get(":authority"), headers:get("content-type")
  if not model or media_count > 0 or not authority or find(authority, ",", 1, true) or kind and find(kind, ",", 1, true) then return nil end
  if headers:get("content-encoding") or headers:get("upgrade") then return nil end
  local authorization, x_api_key = headers:get("authorization"), headers:get("x-api-key")
  local api_key, goog_api_key = headers:get("api-key"), headers:get("x-goog-api-key")
  if authorization and find(authorization, ",", 1, true) or x_api_key and find(x_api_key, ",", 1, true)
    or api_key and find(api_key, ",", 1, true) or goog_api_key and find(goog_api_key, ",", 1, true) then
    return nil
  end
  local further = ""
  for i = 1, #vary_names do further = further .. "\n" .. (headers:get(vary_names[i]) or NONE) end
  -- requests whose sizes have as many bits reserve the same
  local _, bits = frexp(size)
  local key = method .. "\n" .. headers:get(":path") .. "\n" .. (authorization or NONE) .. "\n" .. (x_api_key or NONE) .. "\n"
    .. (api_key or NONE) .. "\n" .. (goog_api_key or NONE) .. "\n" .. (kind or NONE) .. "\n" .. model .. "\n" .. (values.stream or NONE)
    .. "\n" .. (values.n or NONE) .. "\n" .. (values.max_tokens or NONE) .. "\n" .. (values.max_completion_tokens or NONE) .. "\n"
    .. (values.max_output_tokens or NONE) .. "\n" .. bits .. further
  return #key <= MAX_KEY and key or nil
end

local HEX = "[0-9a-f]"
local TRACEPARENT = "^(" .. HEX .. HEX .. ")%-(" .. HEX:rep(32) .. ")%-(" .. HEX:rep(16) .. ")%-" .. HEX .. "(" .. HEX .. ")"
local NO_TRACE, NO_SPAN = ("0"):rep(32), ("0"):rep(16)
local ODD = { ["1"] = true, ["3"] = true, ["5"] = true, ["7"] = true, ["9"] = true, b = true, d = true, f = true }

-- trace, parent and the digit with the flag of a traceparent; nil for one that counts for nothing. Several lines are none.
local function parse(header)
  local version, trace, parent, flag = match(header, TRACEPARENT)
  if not version or version == "ff" or trace == NO_TRACE or parent == NO_SPAN then return nil end
  if #header > 55 and (version == "00" or byte(header, 56) ~= 45) then return nil end
  return trace, parent, flag
end

local function forget(key)
  by_key[key] = nil
  lane_count = lane_count - 1
end

-- counts one use of a lane off: which one it is, or nil where there is none left, and whether it came too late
local function use(slot, generation)
  local n = slot.used + 1
  if slot.generation ~= generation or n > slot.granted then return nil end
  -- Weir takes back what is granted, waits, and reads what was used. What was gone before it was counted is not used.
  slot.used = n
  return n, slot.generation ~= generation or slot.granted < n
end

-- what is left, as headers say it
local function note_left(facts, slot, n, size)
  local left, reset = slot.requests - n, nil
  if left == left then
    left, reset = left > 0 and format("%d", left) or "0", format("%d", slot.requests_reset)
  else
    left = nil
  end
  facts["x-ratelimit-remaining-requests"], facts["x-ratelimit-reset-requests"] = left, reset
  left, reset = slot.tokens - n * slot.each, nil
  if left == left then
    local per_token = slot.bytes_per_token
    if per_token > 0 then -- each is of the largest body of as many bits
      local _, bits = frexp(size)
      left = left + ceil((ldexp(1, bits) - 1) / per_token) - ceil(size / per_token)
    end
    left, reset = left > 0 and format("%d", left) or "0", format("%d", slot.tokens_reset)
  else
    left = nil
  end
  facts["x-ratelimit-remaining-tokens"], facts["x-ratelimit-reset-tokens"] = left, reset
end

-- requests since one was let through, or a lane began: where no lanes begin, looking for them is for nothing
local idle = 0

-- the exchange of the request that is being let through; nil before it has been counted
local using

-- whether a request of that key is let through
local function enter(handle, headers, facts, key, size)
  local lane = by_key[key]
  -- The time is for a Weir that lives and stands still.
  if not lane or not (lanes.head.alive > handle:timestamp()) or not lanes.alive() then return false end
  local slot = lane.slot
  if slot.generation ~= lane.generation then
    forget(key)
    return false
  end
  local header, trace, parent, flag = headers:get("traceparent"), nil, nil, nil
  if header then trace, parent, flag = parse(header) end
  if not trace and headers:get("tracestate") then return false end -- it means nothing in another trace, and has to go
  local n, late = use(slot, lane.generation)
  if not n then return false end
  using = lane.prefix .. n
  if late then
    forget(key)
    return false
  end

  local said, sampled = lane.facts, nil
  if trace then
    sampled = ODD[flag]
  else
    trace = format("%08x%08x%08x%08x", random(1, 0xffffffff), random(0, 0xffffffff), random(0, 0xffffffff), random(0, 0xffffffff))
    sampled = random() < lane.sample
  end
  said.trace_parent = parent
  said.trace = format("00-%s-%08x%07x", trace, random(1, 0xffffffff), random(0, 0xfffffff))
  said.trace_flags = sampled and "-01" or "-00"
  note_left(said, slot, n, size)
  said[REST] = lane.rest .. n
  facts:set(DECISION, AHEAD, said)
  headers:replace(LANE_HEADER, using)
  headers:replace(PATH_HEADER, lane.path)
  headers:replace(RULE_HEADER, lane.rule)
  return true
end

-- whether a request is let through; else the key under which a lane may begin with it, nil for none
local function try(handle, headers, facts, values, method, size)
  using = nil
  local key = key_of(headers, method, values, size)
  if key then return enter(handle, headers, facts, key, size), key end
end

-- the same, and notes for Weir what it has to know of a request that it is asked about
local function let_in(handle, headers, facts, values, method, size)
  idle = idle + 1
  if idle > PATIENCE and idle % SELDOM ~= 0 then return false end
  local ok, entered, key = pcall(try, handle, headers, facts, values, method, size)
  if ok and entered then
    idle = 0
    return true
  end
  if using then facts:set(PEEK, "void", using) end
  if not ok then pcall(facts.set, facts, DECISION, AHEAD, "") end -- Envoy would read them beside those of the decision
  if not ok or not key then return false end
  facts:set(PEEK, "lane", true)
  return false, key
end

-- keeps what a request was asked for with until its answer
local function remember(id, key, now)
  if asked_count == MAX_ASKED or now - asked_since > MAX_WAIT then
    asked_before, before_count = asked, asked_count
    asked, asked_count, asked_since = {}, 0, now
  end
  asked_count = asked_count + 1
  asked[id] = { key = key, vary = vary }
end

-- begins the lane that a decision carries
local function begin(ask, decided)
  local at, generation, prefix = match(decided.lane, "^(%d+):(%d+):(.*)$")
  at, generation = tonumber(at), tonumber(generation)
  if not at or at >= SLOTS or generation == 0 or not decided.lane_rule or not decided.lane_path then return end
  local said = decided.lane_vary or ""
  if said ~= vary then
    -- Another configuration is live. Lanes have keys of the old one, and so has this request.
    vary, vary_names = said, {}
    for name in string.gmatch(said, "[^,]+") do vary_names[#vary_names + 1] = name end
    by_key, lane_count = {}, 0
  end
  if ask.vary ~= said then return end
  local known = by_key[ask.key]
  if not known then
    if lane_count == MAX_LANES then by_key, lane_count = {}, 0 end
    lane_count = lane_count + 1
  elseif known.ticket == decided.lane then
    return
  end
  local facts, rest = {}, ""
  decided.native = "true"
  for name, value in pairs(decided) do
    if not OWN[name] and type(value) == "string" then
      if READ[name] or find(value, "\n", 1, true) then
        facts[name] = value
      else
        rest = rest .. name .. "\n" .. value .. "\n"
      end
    end
  end
  idle = 0
  by_key[ask.key] = {
    ticket = decided.lane, slot = lanes.slots + at, generation = generation, prefix = prefix,
    rule = decided.lane_rule, path = decided.lane_path, sample = tonumber(decided.lane_sample) or 0,
    facts = facts, rest = rest .. "exchange\n" .. prefix,
  }
end

-- what a request was asked for with; nil for one that nobody asked for, or not of late
local function recall(id)
  local ask = asked[id]
  if ask then
    asked[id] = nil
    asked_count = asked_count - 1
    return ask
  end
  ask = asked_before[id]
  if ask then
    asked_before[id] = nil
    before_count = before_count - 1
  end
  return ask
end

-- looks whether the decision about a request carries a lane
local function learn(handle)
  if asked_count + before_count == 0 then return end
  local metadata = handle:streamInfo():dynamicMetadata()
  local found = metadata:get(PEEK)
  local ask = found and found.id and recall(found.id)
  local decided = ask and metadata:get(DECISION)
  if decided and decided.lane then begin(ask, decided) end
end

envoy_on_response = lanes and learn
