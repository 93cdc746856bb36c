-- Claims messages anew that are still being worked on.   KEYS: unacked_index   ARGV: tags
-- Returns the places (from 1) of the tags that are there no more: somebody gave these messages back.
local now, gone = redis.call('TIME')[1] + 1, {}
for place, tag in ipairs(ARGV) do
  if redis.call('ZADD', KEYS[1], 'XX', 'CH', now, tag) == 0 and not redis.call('ZSCORE', KEYS[1], tag) then
    gone[#gone + 1] = place
  end
end
return gone
