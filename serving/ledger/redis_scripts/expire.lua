-- Gives back what has been open for too long.
-- KEYS     6, 7, ... reservations
-- ARGV     4 latest time of creation; 5, 6, ... their ids
-- Returns  how many had been open

local expired = 0
for i = 6, #KEYS do
  local created = tonumber(redis.call('HGET', KEYS[i], 'created') or nil)
  if created and created <= tonumber(ARGV[4]) and give_back(KEYS[i], ARGV[i - 1], 'expired') == 'open' then
    expired = expired + 1
  end
end
return expired
