-- Makes a claim last longer; one that ran out is taken again while nobody else has it and the chord is there.
-- KEYS: claim .c, size .s   ARGV: token, seconds
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] or (not holder and redis.call('EXISTS', KEYS[2]) == 1) then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
  return 1
end
return 0
