-- Finds the messages that were taken too long ago, for the one who gets the lock.
-- KEYS: unacked_index, unacked_mutex   ARGV: age in seconds, lock token, lock milliseconds, how many at most
-- Returns the tags, the newest first; none, and no lock, when there are none or somebody else has the lock.
local time = redis.call('TIME')
local oldest = string.format('%.6f', time[1] + time[2] / 1000000 - tonumber(ARGV[1]))
local tags = redis.call('ZRANGE', KEYS[1], oldest, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[4])
if #tags > 0 and not redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return {} end
return tags
