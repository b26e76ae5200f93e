-- Releases the amounts of old reservations for which no cost was reported.
-- ARGV     4  Reservations that were created at this time or earlier are old
--          5  Largest number of reservations to release in this call
--          6  Seconds until the released reservations are deleted
-- Returns  The number of released reservations

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
