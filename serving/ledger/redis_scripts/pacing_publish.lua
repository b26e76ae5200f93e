-- Writes the prices and states that the holder of the lease has computed. If another router now has the lease, writes
-- nothing.
-- KEYS     1  The lease
--          2  Hash: account -> state of its pacing
--          3  Hash of the prices: "version"; "names" of the accounts, one per line; "digest" of the names; "values",
--             one double per account, in base 64
-- ARGV     1  Number of the lease
--          2, 3, 4  Digest, names and values
--          5, 6, ...  For each changed account: the account, and its state, or '' to delete the state
-- Returns  1, or nothing if the lease has another number

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
