-- Writes what the router with the lease has found; a lease that has passed to another router writes nothing.
-- KEYS     1 the lease; 2 hash: account -> state; 3 hash of the prices: "version"; "names" of the accounts, a line each, and
--          their "digest"; "values", a double for each, in base 64
-- ARGV     1 the number of the lease; 2 digest; 3 names; 4 values; 5, 6, ... in turn: account, state or ''
-- Returns  1; nothing if the lease has another number

if string.match(redis.call('GET', KEYS[1]) or '', '^%d+') ~= ARGV[1] then return false end
for i = 5, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
if redis.call('HGET', KEYS[3], 'digest') ~= ARGV[2] then redis.call('HSET', KEYS[3], 'digest', ARGV[2], 'names', ARGV[3]) end
redis.call('HSET', KEYS[3], 'values', ARGV[4])
redis.call('HINCRBY', KEYS[3], 'version', 1)
return 1
