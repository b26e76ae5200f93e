-- Releases the money; what is not reserved yet can't be from now on.
-- ARGV  4 the reservation's id; 5 seconds for which it is remembered

check(redis.call('HGET', KEYS[1], 'generation'))
local r = find(ARGV[4])
if not r then
  r = { amount = 0, charged = 0, excess = 0, books = '', arm = '', campaign = '', channel = '', request = '', events = {} }
  finish(ARGV[4], r, 'c', ARGV[5])
elseif r.state == 'o' then
  release(ARGV[4], r, 'c', ARGV[5])
end
return 1
