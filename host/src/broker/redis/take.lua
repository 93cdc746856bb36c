-- Takes messages and records them as unacknowledged, in one step.
-- KEYS: unacked, unacked_index, then the lists in the order in which they are served
-- ARGV: how many at most, tag prefix, number of the first tag, then for each list what closes its entries
-- Returns the envelopes and the places (from 0) of their lists; the tags are the prefix and consecutive numbers.
-- A whole number of seconds, rounded up, costs the server a fraction of what a fraction costs it.
local now = redis.call('TIME')[1] + 1
local most, prefix, number = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local taken, from, problem = {}, {}, nil
for i = 3, #KEYS do
  local free = most - #taken
  if free <= 0 then break end
  local texts = redis.pcall('RPOP', KEYS[i], free)
  if texts and texts.err then
    problem = texts
  elseif texts then
    local scores, entries = {}, {}
    for n, text in ipairs(texts) do
      local tag = prefix .. string.format('%.0f', number + #taken + n - 1)
      scores[#scores + 1] = now
      scores[#scores + 1] = tag
      entries[#entries + 1] = tag
      entries[#entries + 1] = '[' .. text .. ARGV[i + 1]
    end
    -- What cannot be recorded is not taken.
    local recorded = redis.pcall('HSET', KEYS[1], unpack(entries))
    if not (type(recorded) == 'table' and recorded.err) then
      recorded = redis.pcall('ZADD', KEYS[2], unpack(scores))
    end
    if type(recorded) == 'table' and recorded.err then
      for n = #texts, 1, -1 do
        redis.call('RPUSH', KEYS[i], texts[n])
        redis.pcall('HDEL', KEYS[1], entries[2 * n - 1])
      end
      problem = recorded
      break
    end
    for _, text in ipairs(texts) do
      taken[#taken + 1] = text
      from[#from + 1] = i - 3
    end
  end
end
if #taken == 0 and problem then return problem end
return {taken, from}
