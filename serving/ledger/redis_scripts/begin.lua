-- Begins the periods that are due.
-- ARGV  4, 5, 6, ... in turn: account; start and end of the period that holds at present

for i = 4, #ARGV, 3 do
  local start, until_, rest = terms_of(redis.call('HGET', KEYS[3], ARGV[i]) or '')
  if start and tonumber(until_) <= now then
    redis.call('HSET', KEYS[3], ARGV[i], start_after(start, until_, ARGV[i + 1], rest) .. ' ' .. ARGV[i + 2] .. ' ' .. rest)
  end
end
return 1
