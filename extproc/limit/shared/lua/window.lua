-- Sliding window: a hash of units by slot of time, slot = floor(microseconds / width).
-- A slot counts until the last moment of it has left the window, so the sum is never less than what the window holds.
-- ARGV acquire: 'acquire', limit, window, width, min, want, replicas
-- ARGV adjust:  'adjust',  limit, window, width, delta, at   (times in microseconds)
-- Returns granted, remaining, now, reset, retry after.
local key, op = KEYS[1], ARGV[1]
local limit_hi, limit_lo = split(ARGV[2])
local window, width = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = clock()
local current = math.floor(now / width)
local first = math.floor((now - window) / width)

local hi, lo, newest = 0, 0, nil
local slots, gone = {}, {}
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local slot = tonumber(all[i])
  -- A slot of the future was written by a server whose clock was ahead, as before a failover. It counts unless that
  -- was by more than a window.
  if slot < first or slot > 2 * current - first then
    gone[#gone + 1] = all[i]
  else
    local h, l = split(all[i + 1])
    hi, lo = hi + h, lo + l
    slots[slot] = number(h, l)
    if newest == nil or slot > newest then newest = slot end
  end
end

local function leaves(slot) return (slot + 1) * width + window - now end

local function add(slot, delta)
  redis.call('HINCRBY', key, int(slot), delta)
  redis.call('PEXPIRE', key, int(math.ceil((window + 2 * width) / 1000) + 1000))
end

if op == 'acquire' then
  local min, want, replicas = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
  local free = number(limit_hi - hi, limit_lo - lo)
  local granted = take(free, min, want, replicas)
  local retry = 0
  if granted > 0 then
    if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
    add(current, int(granted))
    if newest == nil or current > newest then newest = current end
  else
    retry = window
    local later = free
    if newest ~= nil then
      for slot = first, newest do
        if slots[slot] then
          later = later + slots[slot]
          if later >= min then
            retry = leaves(slot)
            break
          end
        end
      end
    end
  end
  local reset = 0
  if newest ~= nil then reset = leaves(newest) end
  return {granted, reply(free - granted), now, reply(reset), reply(retry)}
end

local at = math.min(tonumber(ARGV[6]), now)
local slot = math.floor(at / width)
local delta = tonumber(ARGV[5])
if slot >= first then
  if delta > 0 then
    add(slot, ARGV[5])
  else
    -- What the slot of the units does not hold any more, older ones give: that ends sooner, so no window is emptied
    -- that should not be.
    local owed = -delta
    while owed > 0 and slot >= first do
      local has = slots[slot]
      if has and has > 0 then
        local back = math.min(has, owed)
        if back == has then
          redis.call('HDEL', key, int(slot))
        else
          redis.call('HINCRBY', key, int(slot), int(-back))
        end
        owed = owed - back
      end
      slot = slot - 1
    end
    delta = delta + owed
  end
else
  delta = 0
end
return {0, reply(number(limit_hi - hi, limit_lo - lo) - delta), now, 0, 0}
