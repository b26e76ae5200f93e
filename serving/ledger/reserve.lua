-- Sets money aside in all matching accounts, or in none.
-- KEYS     6 the reservation
-- ARGV     4 its id; 5 the scope; 6 the amount; 7, 8, ... accounts that match if they are in force
-- Returns  1 if the money is set aside, or was before; else 0

local known = redis.call('HMGET', KEYS[6], 'state', 'scope', 'amount')
if known[1] then
  local granted = known[1] == 'open' or known[1] == 'settled'
  return granted and known[2] == ARGV[5] and known[3] == ARGV[6] and 1 or 0
end

local wanted, books = tonumber(ARGV[6]), {}
local in_force = redis.call('HMGET', KEYS[3], unpack(ARGV, 7))
for i, period in ipairs(in_force) do
  if period then
    local book = book_of(ARGV[6 + i], period)
    if room(book) < wanted then return 0 end
    books[#books + 1] = book
  end
end
if #books == 0 then return 0 end

for _, book in ipairs(books) do add('reserved', book, wanted) end
local created = string.format('%.17g', now)
redis.call('HSET', KEYS[6], 'state', 'open', 'scope', ARGV[5], 'amount', ARGV[6], 'created', created,
  'books', table.concat(books, '\n'))
redis.call('ZADD', KEYS[5], created, ARGV[4])
return 1
