-- Stands before every script. Amounts reach 1e18 nano-units, beyond what a Lua number holds exactly (2^53), so sums are
-- made of two parts: value = hi * 1e9 + lo.
local BASE = 1000000000

-- split reads a decimal integer.
local function split(s)
  local negative = string.sub(s, 1, 1) == '-'
  if negative then s = string.sub(s, 2) end
  local hi = tonumber(string.sub(s, 1, -10)) or 0
  local lo = tonumber(string.sub(s, -9)) or 0
  if negative then return -hi, -lo end
  return hi, lo
end

-- join writes a value that is not negative; one that is becomes 0.
local function join(hi, lo)
  local carry = math.floor(lo / BASE)
  hi, lo = hi + carry, lo - carry * BASE
  if hi < 0 then return '0' end
  if hi == 0 then return string.format('%.0f', lo) end
  return string.format('%.0f%09.0f', hi, lo)
end

-- number is exact below 2^53, which is where it decides.
local function number(hi, lo) return hi * BASE + lo end

local function int(n) return string.format('%.0f', n) end

-- reply makes an integer that fits into 64 bits.
local function reply(n) return math.max(-9e18, math.min(9e18, math.floor(n))) end

-- clock is the time of this server in microseconds.
local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- take decides how many of free units are granted: 0, or from min to want. Who wants more than it must have gets at most
-- half of its part of what is left, so that the last units do not lie idle with one replica.
local function take(free, min, want, replicas)
  if free < min or free <= 0 then return 0 end
  local fair = math.max(min, math.floor(free / (2 * replicas)))
  return math.min(want, free, fair, 2 ^ 52)
end
