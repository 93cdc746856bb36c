-- Removes a chord whose body was sent, and remembers that it was.
-- KEYS: claim .c, parts .j, later members .t, size .s, counted .d   ARGV: token, seconds to remember
local holder = redis.call('GET', KEYS[1])
if holder == 'done' then return 1 end
if holder ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('SET', KEYS[1], 'done', 'EX', ARGV[2])
return 1
