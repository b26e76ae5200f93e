-- Cancels a reservation and releases its amount. If the reservation does not exist yet, a later `reserve` with its id
-- is refused.
-- ARGV  4  Id of the reservation
--       5  Seconds until the cancelled reservation expires

check(redis.call('HGET', KEYS[1], 'generation'))
local r = find(ARGV[4])
if not r then
  r = { amount = 0, charged = 0, excess = 0, books = '', arm = '', campaign = '', channel = '', request = '', events = {} }
  finish(ARGV[4], r, 'c', ARGV[5])
elseif r.state == 'o' then
  release(ARGV[4], r, 'c', ARGV[5])
end
return 1
