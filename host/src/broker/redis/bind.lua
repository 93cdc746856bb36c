-- Binds a queue that expires, and puts off the deadline of its exchange's bindings.
-- KEYS: the set of the exchange's bindings, the deadlines
-- ARGV: the binding, the exchange, milliseconds from now
local now = redis.call('TIME')
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], 'GT', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3], ARGV[2])
