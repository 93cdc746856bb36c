-- Gives unacknowledged messages back to their lists.
-- KEYS: unacked, unacked_index, then the lists, each message's in a row
-- ARGV: LPUSH (delivered last) or RPUSH (delivered next); '' or the age in seconds that a message must have; then for
--       each message its tag, its new text, how many lists it goes to
-- A message that was acknowledged, given back or claimed anew meanwhile stays as it is. Returns how many went back.
local push, age = ARGV[1], tonumber(ARGV[2])
local oldest
if age then
  local time = redis.call('TIME')
  oldest = time[1] + time[2] / 1000000 - age
end
local restored, list, problem = 0, 3, nil
for i = 3, #ARGV, 3 do
  local tag, text, lists = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local due = redis.call('HEXISTS', KEYS[1], tag) == 1
  if due and oldest then
    local score = redis.call('ZSCORE', KEYS[2], tag)
    due = score and tonumber(score) <= oldest
  end
  if due then
    local pushed = 0
    for l = list, list + lists - 1 do
      local answer = redis.pcall(push, KEYS[l], text)
      if type(answer) == 'table' and answer.err then problem = answer else pushed = pushed + 1 end
    end
    if pushed > 0 then
      redis.call('HDEL', KEYS[1], tag)
      redis.call('ZREM', KEYS[2], tag)
      restored = restored + 1
    end
  end
  list = list + lists
end
if restored == 0 and problem then return problem end
return restored
