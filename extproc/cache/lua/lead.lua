-- Makes the caller the one who buys an answer, unless it is there or somebody else is at it.
-- KEYS: record, lock; ARGV: token, milliseconds that the lock lives, stamp of a record that does not count
-- Answers {2, record}, {1}: go ahead, or {0}: somebody is at it, and learns that he is waited for.
local v = redis.call('GET', KEYS[1])
if v and string.sub(v, 2, 9) ~= ARGV[3] then
  return {2, v}
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HSET', KEYS[2], 'owner', ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  return {1}
end
redis.call('HSET', KEYS[2], 'waiting', 1)
return {0}
