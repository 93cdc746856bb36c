-- Counts a later member of a chord; asked twice because the first answer was lost, it counts once.
-- KEYS: later members .t, a key of this member's own   ARGV: expiry of the chord in seconds (0: none)
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', 300) then return 0 end
redis.call('INCR', KEYS[1])
if ARGV[1] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
