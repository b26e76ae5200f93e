-- Writes what the router with the lease has found; a lease that has passed to another router writes nothing.
-- KEYS     1 the lease; 2 hash: account -> state; 3 hash: "version", and version -> prices that changed
-- ARGV     1 the number of the lease; 2 how many versions are kept; 3 prices; 4, 5, ... in turn: account, state or ''
-- Returns  the new version; nothing if the lease has another number

if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') ~= ARGV[1] then return false end
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
local version = redis.call('HINCRBY', KEYS[3], 'version', 1)
redis.call('HSET', KEYS[3], version, ARGV[3])
redis.call('HDEL', KEYS[3], version - ARGV[2])
return version
