-- The bloom filter of a policy. KEYS: state, bits, recent keys (newest first), lock of who makes it; ARGV: what to do, ...
if ARGV[1] == 'mend' then
  -- Somebody else has written in place of it: what is of another kind goes, and the state with it, so that it is made anew. Answers how many were.
  local wrong = 0
  for i, kind in ipairs({'hash', 'string', 'list', 'string'}) do
    local is = redis.call('TYPE', KEYS[i]).ok
    if is ~= 'none' and is ~= kind then
      redis.call('DEL', KEYS[i])
      wrong = wrong + 1
    end
  end
  if wrong > 0 then
    redis.call('DEL', KEYS[1])
  end
  return wrong
end
local state = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'ready', 'm', 'k')
local life = 604800000 -- a week without a write, in milliseconds
if ARGV[1] == 'look' then
  -- epoch, how many recent keys are known: what has changed. The last known one comes too, as a proof that it is the same list.
  if not state[1] then
    return {}
  end
  local out = {state[1], state[2], state[3], state[4], state[5], {}}
  local more = tonumber(state[2]) - tonumber(ARGV[3])
  if state[1] == ARGV[2] and more >= 0 then
    out[6] = redis.call('LRANGE', KEYS[3], 0, more)
  elseif tonumber(state[2]) > 0 then
    out[6] = redis.call('LRANGE', KEYS[3], 0, 0)
  end
  return out
elseif ARGV[1] == 'add' then
  -- epoch, recent key, how many of those are kept, positions...
  if state[1] ~= ARGV[2] then
    return 0
  end
  if redis.call('STRLEN', KEYS[2]) * 8 < tonumber(state[4]) then
    redis.call('DEL', KEYS[1]) -- the bits were evicted: nobody may trust what is left
    return 0
  end
  for i = 5, #ARGV do
    redis.call('SETBIT', KEYS[2], ARGV[i], 1)
  end
  redis.call('LPUSH', KEYS[3], ARGV[3])
  redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[4]) - 1)
  redis.call('HINCRBY', KEYS[1], 'n', 1)
  for i = 1, 3 do
    redis.call('PEXPIRE', KEYS[i], life)
  end
  return 1
elseif ARGV[1] == 'make' then
  -- epoch, m, k, milliseconds that the lock lives: an empty one, to be filled before it is ready
  if redis.call('PTTL', KEYS[4]) == -1 then
    redis.call('DEL', KEYS[4]) -- nobody's lock: those end by themselves
  end
  if not redis.call('SET', KEYS[4], ARGV[2], 'NX', 'PX', ARGV[5]) then
    return 0
  end
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('SETBIT', KEYS[2], tonumber(ARGV[3]) - 1, 0)
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'n', 0, 'ready', 0, 'm', ARGV[3], 'k', ARGV[4])
  for i = 1, 3 do
    redis.call('PEXPIRE', KEYS[i], life)
  end
  return 1
elseif ARGV[1] == 'spoil' then
  -- epoch: it has lost keys
  if state[1] == ARGV[2] then
    redis.call('HSET', KEYS[1], 'ready', 0)
  end
  return 1
elseif ARGV[1] == 'fill' then
  -- epoch, milliseconds that the lock lives, positions...
  if state[1] ~= ARGV[2] or redis.call('GET', KEYS[4]) ~= ARGV[2] then
    return 0
  end
  redis.call('PEXPIRE', KEYS[4], ARGV[3])
  for i = 4, #ARGV do
    redis.call('SETBIT', KEYS[2], ARGV[i], 1)
  end
  return 1
elseif ARGV[1] == 'ready' then
  -- epoch
  if state[1] ~= ARGV[2] or redis.call('GET', KEYS[4]) ~= ARGV[2] then
    return 0
  end
  redis.call('HSET', KEYS[1], 'ready', 1)
  redis.call('DEL', KEYS[4])
  return 1
end
if ARGV[1] == 'leave' then
  -- epoch: who makes it ends before it is ready
  if redis.call('GET', KEYS[4]) == ARGV[2] then
    redis.call('DEL', KEYS[4])
  end
  return 1
end
return redis.error_reply('no such operation')
