-- Token bucket: a hash of the level l (may be a fraction, and negative when in debt) at the time t in microseconds.
-- No hash is a full bucket.
-- ARGV acquire: 'acquire', limit, burst, window, min, want, replicas
-- ARGV adjust:  'adjust',  limit, burst, window, delta
-- Returns granted, remaining, now, reset, retry after.
local key, op = KEYS[1], ARGV[1]
local limit, burst, window = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local rate = limit / window
local now = clock()

local state = redis.call('HMGET', key, 'l', 't')
local level = tonumber(state[1] or '') or burst
local since = tonumber(state[2] or '') or now
if now > since then
  level = level + (now - since) * rate
  level = level - math.abs(level) * 4.5e-16 -- two units in the last place: rounding never adds a token
end
level = math.min(level, burst)

local function store()
  redis.call('HSET', key, 'l', string.format('%.17g', level), 't', int(now))
  -- A full bucket need not be kept. 400 days are the longest that any is.
  local full = math.ceil((burst - level) / rate / 1000) + 1000
  redis.call('PEXPIRE', key, int(math.min(full, 34560000000)))
end

local granted, retry = 0, 0
if op == 'acquire' then
  local min, want, replicas = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
  granted = take(math.floor(level), min, want, replicas)
  if granted > 0 then
    level = level - granted
    store()
  else
    retry = math.ceil((min - level) / rate)
  end
else
  level = math.min(burst, level - tonumber(ARGV[5]))
  store()
end
return {granted, reply(level), now, reply(math.ceil((burst - level) / rate)), reply(retry)}
