-- Begins the periods that are due.
-- ARGV  4, 5, 6, ... in turn: account; start and end of the period that holds at present

for i = 4, #ARGV, 3 do
  local start, until_, rest = terms_of(redis.call('HGET', KEYS[3], ARGV[i]) or '')
  if start and tonumber(until_) <= now then
    start = whole(math.max(tonumber(start), tonumber(ARGV[i + 1])))
    redis.call('HSET', KEYS[3], ARGV[i], start .. ' ' .. ARGV[i + 2] .. ' ' .. rest)
  end
end
return 1
