-- Finds the campaigns whose accounts have changed.
-- ARGV     4 the number of the last change that the caller knows; 5 how many campaigns at most
-- Returns  the time; the number that the caller knows then; in turn campaign, and the hash of its accounts

local general = redis.call('HMGET', KEYS[1], 'generation', 'changes')
check(general[1])
local last, seen, most = tonumber(general[2] or 0), tonumber(ARGV[4]), tonumber(ARGV[5])
if seen > last then seen = 0 end -- this is an older copy, which was restored
local found = redis.call('ZRANGEBYSCORE', KEYS[2], string.format('(%d', seen), '+inf', 'WITHSCORES', 'LIMIT', 0, most)
local rows = {}
for i = 1, #found, 2 do
  rows[i], rows[i + 1] = found[i], redis.call('HGETALL', prefix .. 'accounts:' .. found[i])
end
return { string.format('%.17g', present()), #found == 2 * most and found[#found] or string.format('%d', last), rows }
