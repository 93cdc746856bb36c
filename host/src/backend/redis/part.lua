-- Counts one part of a chord, once, and claims the chord when it is complete.
-- KEYS: parts .j, later members .t, size .s, counted .d, saved group, claim .c
-- ARGV: task id, the part, 1 (ordered) or 0, position, expiry of the chord, expiry of the group (0: none),
--       seconds of the claim, its token
-- Returns what the part means, milliseconds that another claim lasts, and whether the part had come before.
local parts, added, size, counted, group, claim = unpack(KEYS)
local id, part, ordered, position = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
local expires, group_expires, seconds, token = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], ARGV[8]

local holder = redis.call('GET', claim)
if holder == 'done' then return {'done', 0, 1} end

local again = 1
if redis.call('SADD', counted, id .. ':' .. position) == 1 then
  again = 0
  if ordered then
    redis.call('ZADD', parts, position, part)
  else
    redis.call('RPUSH', parts, part)
  end
end
if expires > 0 then
  for _, key in ipairs({parts, added, size, counted}) do redis.call('EXPIRE', key, expires) end
  if group_expires > 0 then redis.call('EXPIRE', group, group_expires) end
end

local wanted = tonumber(redis.call('GET', size) or nil)
if not wanted then return {'waiting', 0, again} end
wanted = wanted + (tonumber(redis.call('GET', added) or 0) or 0)
local ready = ordered and redis.call('ZCARD', parts) or redis.call('LLEN', parts)
if ready ~= wanted then return {'waiting', 0, again} end
if not holder then
  redis.call('SET', claim, token, 'EX', seconds)
  return {'complete', 0, again}
end
-- A claim of one's own is found when the answer to the first attempt was lost.
if holder == token then return {'complete', 0, again} end
return {'taken', redis.call('PTTL', claim), again}
