-- Replaces a value if it is of the version that was read, and lists it.
-- KEYS: the value; the list of its consumer's sessions
-- ARGV: version that was read ("" for none), new version, value, time to live in ms, member of the list ("" for none), member to take off it
local have = redis.call('GETRANGE', KEYS[1], 0, 11)
if have ~= ARGV[1] then
  return 0
end
local ttl = tonumber(ARGV[4])
redis.call('SET', KEYS[1], ARGV[2] .. ARGV[3], 'PX', ttl)
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
if ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[2], now + ttl, ARGV[5])
  if redis.call('PTTL', KEYS[2]) < ttl then
    redis.call('PEXPIRE', KEYS[2], ttl)
  end
else
  redis.call('ZREM', KEYS[2], ARGV[6])
end
return 1
