-- Keeps a lock or gives it back. KEYS: lock; ARGV: token, milliseconds to keep it for (0: give it back), and 1 to give it back
-- although others wait. Answers 1: done, 0: it is somebody else's now, 2: others wait and it was not given back.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return 0
end
if tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif ARGV[3] ~= '1' and redis.call('HEXISTS', KEYS[1], 'waiting') == 1 then
  return 2
else
  redis.call('DEL', KEYS[1])
end
return 1
