-- Releases what has been open for too long.
-- ARGV     4 latest time of creation; 5 how many at most; 6 seconds for which they are remembered
-- Returns  how many had been open

check(redis.call('HGET', KEYS[1], 'generation'))
local overdue, expired = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[4], 'LIMIT', 0, ARGV[5]), 0
for _, id in ipairs(overdue) do
  local r = find(id)
  if r and r.state == 'o' then
    release(id, r, 'e', ARGV[6])
    expired = expired + 1
  else
    redis.call('ZREM', KEYS[3], id)
  end
end
return expired
