-- KEYS: stream, hash of what there is by slot
-- ARGV: slot, what the sender thinks there is ("" for nothing), what there is to be, then pairs of a line's number and the line
-- Returns "ok"; or what there is, and then nothing has been changed.
local is = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if is ~= ARGV[2] then
  return is
end
for i = 4, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'slot', ARGV[1], 'seq', ARGV[i], 'entry', ARGV[i + 1])
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 'ok'
