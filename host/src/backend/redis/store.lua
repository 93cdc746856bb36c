-- Stores results and tells those who wait for them, but never over a SUCCESS.
-- KEYS: result keys, which are the channels, too   ARGV: for each its document and its expiry in seconds (0: none)
-- Returns for each 1 (stored), 0 (a SUCCESS was there) or what went wrong.
local function succeeded(stored)
  if string.find(stored, '^%s*{%s*"status"%s*:%s*"SUCCESS"') then return true end
  if not string.find(stored, '"SUCCESS"', 1, true) then return false end
  -- The word is somewhere in it. Only the document's own status counts.
  local fine, document = pcall(cjson.decode, stored)
  return fine and type(document) == 'table' and document.status == 'SUCCESS'
end

local answers = {}
for i, key in ipairs(KEYS) do
  local document, expires = ARGV[2 * i - 1], ARGV[2 * i]
  local stored = redis.pcall('GET', key)
  if type(stored) == 'string' and succeeded(stored) then
    answers[i] = 0
  else
    local answer
    if expires == '0' then
      answer = redis.pcall('SET', key, document)
    else
      answer = redis.pcall('SETEX', key, expires, document)
    end
    if not answer.err then
      answer = redis.pcall('PUBLISH', key, document)
    end
    answers[i] = type(answer) == 'table' and answer.err or 1
  end
end
return answers
