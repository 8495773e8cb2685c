-- Notes a purge. KEYS: number of the last purge, purges; ARGV: what is purged, how many are kept, milliseconds that they live
-- A purge is "number previous what". Numbers are microseconds, so that they grow even when Redis has lost everything.
local t = redis.call('TIME')
local before = redis.call('GET', KEYS[1]) or '0'
local n = math.max(t[1] * 1000000 + t[2], tonumber(before) + 1)
local text = string.format('%.0f', n)
redis.call('LPUSH', KEYS[2], text .. ' ' .. before .. ' ' .. ARGV[1])
redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[2]) - 1)
redis.call('SET', KEYS[1], text, 'PX', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return text
