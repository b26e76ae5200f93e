-- Returns the accounts of the campaigns that have changed since the caller last asked.
-- ARGV     4  Number of the last change that the caller knows
--          5  Largest number of campaigns to return
-- Returns  The time; the number of the last change that the answer includes; for each campaign: its name and its hash
--          of accounts

local general = redis.call('HMGET', KEYS[1], 'generation', 'changes')
check(general[1])
local last, seen, most = tonumber(general[2] or 0), tonumber(ARGV[4]), tonumber(ARGV[5])
if seen > last then seen = 0 end -- an older backup was restored, so return all campaigns
local found = redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%d', seen), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
local rows = {}
for i = 1, #found, 2 do
  rows[i], rows[i + 1] = found[i], redis.call('HGETALL', prefix .. 'accounts:' .. found[i])
end
return { string.format('%.17g', present()), #found == 2 * most and found[#found] or string.format('%d', last), rows }
