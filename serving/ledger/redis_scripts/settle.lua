-- Turns a reservation into spend.
-- KEYS     6 the reservation
-- ARGV     4 its id; 5 the cost; 6 seconds for which a settled reservation is remembered
-- Returns  what is charged, and the cost; nothing for a reservation that never was

local known = redis.call('HMGET', KEYS[6], 'state', 'amount', 'books', 'charged', 'cost', 'scope')
local state, amount, books = known[1], tonumber(known[2]), known[3] or ''
if not state then return {} end
if state == 'settled' or state == 'late' then return { known[4], known[5] } end

local charged = state == 'cancelled' and 0 or math.min(tonumber(ARGV[5]), amount)
if state == 'expired' then -- the money was spent; what the accounts have left pays for it
  for book in each(books) do charged = math.max(0, math.min(charged, room(book))) end
end
for book in each(books) do -- first, since a sum beyond 64 bits is an error
  redis.call('HINCRBY', KEYS[4], 'excess:' .. book, ARGV[5])
end
for book in each(books) do
  add('excess', book, 0 - charged)
  add('spent', book, charged)
  if state == 'open' then add('reserved', book, 0 - amount) end
end
redis.call('DEL', KEYS[6]) -- most reservations end here, and memory is full of them: a hash never shrinks
redis.call('HSET', KEYS[6], 'scope', known[6] or '', 'amount', known[2], 'charged', whole(charged), 'cost', ARGV[5])
finish(KEYS[6], ARGV[4], state == 'open' and 'settled' or 'late', ARGV[6])
return { whole(charged), ARGV[5] }
