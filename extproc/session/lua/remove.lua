-- Removes a value if it is of the version that was read.
-- KEYS: the value; the list of its consumer's sessions
-- ARGV: version that was read, member of the list
local have = redis.call('GETRANGE', KEYS[1], 0, 11)
if have ~= '' and have ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
return 1
