-- Forgets messages for good.
-- KEYS: unacked, unacked_index
-- ARGV: their tags
-- Returns the places (from 1) of those that were not there any more: somebody gave them back to their queues.
local gone = {}
if redis.call('ZREM', KEYS[2], unpack(ARGV)) < #ARGV then
  for place, record in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV))) do
    if not record then gone[#gone + 1] = place end
  end
end
redis.call('HDEL', KEYS[1], unpack(ARGV))
return gone
