-- Sets the accounts in force.
-- ARGV  4, 5, 6, ... account, period and cap in turn

redis.call('DEL', KEYS[3])
for i = 4, #ARGV, 3 do
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
end
return 1
