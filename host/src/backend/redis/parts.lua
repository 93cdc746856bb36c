-- Counts parts of one chord, each once, and claims the chord for the one that completes it.
-- KEYS: parts .j, later members .t, size .s, counted .d, saved group, claim .c
-- ARGV: 1 (ordered) or 0, expiry of the chord, expiry of the group (0: none), seconds of a claim,
--       and for each part: task id, the part, position, token, whether its message was delivered before (1 or 0)
-- Returns for each what it means, milliseconds that another claim lasts, and whether it had come before.
local parts, added, size, counted, group, claim = unpack(KEYS)
local ordered, expires, group_expires, seconds = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local answers = {}
local holder = redis.call('GET', claim)
local done = holder == 'done'
local wanted = not done and tonumber(redis.call('GET', size) or nil)
if wanted then wanted = wanted + (tonumber(redis.call('GET', added) or 0) or 0) end
local ready = ordered and redis.call('ZCARD', parts) or redis.call('LLEN', parts)
for first = 5, #ARGV, 5 do
  local id, part, position, token, redelivered = unpack(ARGV, first, first + 4)
  local again = 1
  -- What comes to a chord that is done is either a late copy, which must not bring back what was removed, or an early part
  -- of the same chord applied once more: its sender sets the size, and forgets the end, with the last part only.
  local counts = not done or redelivered == '0'
  if counts and redis.call('SADD', counted, id .. ':' .. position) == 1 then
    again = 0
    if ordered then
      ready = ready + redis.call('ZADD', parts, position, part)
    else
      ready = redis.call('RPUSH', parts, part)
    end
  end
  local answer = {done and 'done' or 'waiting', 0, again}
  if ready == wanted then
    if not holder then
      redis.call('SET', claim, token, 'EX', seconds)
      holder = token
      answer[1] = 'complete'
    elseif holder == token then
      -- A claim of one's own is found when the answer to the first attempt was lost.
      answer[1] = 'complete'
    else
      answer[1], answer[2] = 'taken', redis.call('PTTL', claim)
    end
  end
  answers[#answers + 1] = answer
end

if expires > 0 then
  for _, key in ipairs({parts, added, size, counted}) do redis.call('EXPIRE', key, expires) end
  if group_expires > 0 then redis.call('EXPIRE', group, group_expires) end
end
return answers
