-- Removes the bindings of exchanges whose deadline has passed, unless a queue that stays is bound there, too.
-- KEYS: the deadlines
-- ARGV: what the keys of bindings begin with, the same for those that stay, how many exchanges at most
local now = redis.call('TIME')
local passed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now[1] * 1000 + math.floor(now[2] / 1000), 'LIMIT', 0, ARGV[3])
for _, exchange in ipairs(passed) do
  if redis.call('EXISTS', ARGV[2] .. exchange) == 0 then
    redis.call('DEL', ARGV[1] .. exchange)
  end
  redis.call('ZREM', KEYS[1], exchange)
end
