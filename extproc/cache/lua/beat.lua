-- Says that a replica is there, and what was purged. KEYS: members, number of the last purge, purges (newest first);
-- ARGV: replica, milliseconds after which a silent one is gone, last purge that it knows
-- Answers {members (-1: Redis takes no writes), whether it is new, number of the last purge, purges or nothing}.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local new = redis.pcall('ZADD', KEYS[1], now, ARGV[1])
local members = -1
if type(new) == 'number' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
  redis.call('PEXPIRE', KEYS[1], 10 * tonumber(ARGV[2]))
  members = redis.call('ZCARD', KEYS[1])
else
  new = 0
end
local last = redis.call('GET', KEYS[2]) or '0'
if last == ARGV[3] then
  return {members, new, last, {}}
end
return {members, new, last, redis.call('LRANGE', KEYS[3], 0, -1)}
