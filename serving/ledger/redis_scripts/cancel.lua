-- Gives the money back; what is not reserved yet can't be from now on.
-- KEYS  6 the reservation
-- ARGV  4 its id

if not give_back(KEYS[6], ARGV[4], 'cancelled') then
  redis.call('HSET', KEYS[6], 'amount', '0')
  finish(KEYS[6], ARGV[4], 'cancelled', ARGV[3])
end
return 1
