-- Shares: a hash with a field for each replica, "generation:taken:returned:time", of all that it has taken and returned.
-- What is used is the sum of taken less returned. A replica writes only its own field and says with each call what it
-- should hold at least. Both numbers only grow, so calls may overtake each other, and a field that was lost comes back.
--
-- The generation orders what one replica says. A call of an older one comes too late and does nothing; the first of a
-- newer one replaces the field, which rids it of calls whose outcome the replica never learned.
-- ARGV: id, generation, 'set' or 'adopt', taken, returned, limit, min, want, replicas, stale, expiry in ms, delta
-- 'adopt' takes over the field of an earlier process and makes what that used at least taken less returned.
-- Calls that want nothing (want 0) only say, and change the field by delta.
-- With stale > 0 (microseconds) a field that was not written for as long belongs to a dead replica.
-- Returns status, granted, remaining, now, taken, returned, generation, and 1 if the field was written.
local OK, LOST, LATE = 0, 1, 2
local key, id, generation, mode = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local limit_hi, limit_lo = split(ARGV[6])
local min, want, replicas = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local stale = tonumber(ARGV[10])
local now = clock()

local others_hi, others_lo = 0, 0
local gone, own = {}, nil
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local g, taken, returned, at = string.match(all[i + 1], '^(%d+):(%d+):(%d+):(%d+)$')
  if all[i] == id then
    if g then own = {tonumber(g), taken, returned} end
  elseif not g or (stale > 0 and now - tonumber(at) > stale) then
    gone[#gone + 1] = all[i]
  else
    local th, tl = split(taken)
    local rh, rl = split(returned)
    others_hi, others_lo = others_hi + th - rh, others_lo + tl - rl
  end
end

local status, changed = OK, true
local taken_hi, taken_lo = split(ARGV[4])
local returned_hi, returned_lo = split(ARGV[5])
if own == nil then
  if mode == 'set' and number(taken_hi, taken_lo) > 0 then status = LOST end
elseif own[1] > generation then
  return {LATE, 0, 0, now, own[2], own[3], int(own[1]), 0}
elseif own[1] == generation or mode == 'adopt' then
  local th, tl = split(own[2])
  local rh, rl = split(own[3])
  changed = own[1] ~= generation
  if mode == 'adopt' then
    local more = number(taken_hi - returned_hi - th + rh, taken_lo - returned_lo - tl + rl)
    taken_hi, taken_lo, returned_hi, returned_lo = th, tl + math.max(more, 0), rh, rl
    changed = changed or more > 0
  else
    if number(taken_hi - th, taken_lo - tl) > 0 then
      status, changed = LOST, true
    else
      taken_hi, taken_lo = th, tl
    end
    if number(returned_hi - rh, returned_lo - rl) > 0 then
      changed = true
    else
      returned_hi, returned_lo = rh, rl
    end
  end
end

local function free()
  return number(limit_hi - others_hi - taken_hi + returned_hi, limit_lo - others_lo - taken_lo + returned_lo)
end

local granted = 0
if want > 0 and (status ~= LOST or stale > 0) then
  granted = take(free(), min, want, replicas)
  taken_lo = taken_lo + granted
end
local delta_hi, delta_lo = split(ARGV[12])
if number(delta_hi, delta_lo) > 0 then
  taken_hi, taken_lo = taken_hi + delta_hi, taken_lo + delta_lo
else
  returned_hi, returned_lo = returned_hi - delta_hi, returned_lo - delta_lo
end
local net = number(taken_hi - returned_hi, taken_lo - returned_lo)
if net < 0 then
  returned_hi, returned_lo, net = taken_hi, taken_lo, 0
end

local written = 0
local taken, returned = join(taken_hi, taken_lo), join(returned_hi, returned_lo)
if stale > 0 and net == 0 then
  gone[#gone + 1] = id
elseif changed or granted > 0 or ARGV[12] ~= '0' or (stale > 0 and want == 0) then
  redis.call('HSET', key, id, int(generation) .. ':' .. taken .. ':' .. returned .. ':' .. int(now))
  redis.call('PEXPIRE', key, ARGV[11])
  written = 1
end
if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
return {status, granted, reply(free()), now, taken, returned, int(generation), written}
