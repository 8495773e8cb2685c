-- Registry: a sorted set of the replicas by the time of their last sign of life in ms, and the epoch, a random text that is
-- another one whenever the data of this server may have been lost. A time would not do: a loss can be over within a tick.
-- KEYS: replicas, epoch. ARGV: id, stale in ms, expiry in ms, the epoch that is known to be broken or '', one never used
-- Returns the number of live replicas and the epoch.
local now = math.floor(clock() / 1000)
redis.call('ZADD', KEYS[1], int(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(now - tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local epoch = redis.call('GET', KEYS[2])
if not epoch or epoch == ARGV[4] then
  epoch = ARGV[5]
  redis.call('SET', KEYS[2], epoch, 'PX', ARGV[3])
else
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return {redis.call('ZCARD', KEYS[1]), epoch}
