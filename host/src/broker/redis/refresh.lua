-- Claims messages anew that are still being worked on.   KEYS: unacked_index   ARGV: tags
local time = redis.call('TIME')
local now = time[1] .. string.format('.%06d', time[2])
for _, tag in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now, tag) end
return #ARGV
