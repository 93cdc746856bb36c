-- Claims messages anew that are still being worked on.   KEYS: unacked_index   ARGV: tags
local now = redis.call('TIME')[1] + 1
for _, tag in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now, tag) end
return #ARGV
