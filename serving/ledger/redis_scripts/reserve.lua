-- Sets money aside in all matching accounts, or in none.
-- KEYS     6 the reservation; 7 the request, if it has a name: the id of its last reservation
-- ARGV     4 its id; 5 the request's name or ''; 6 the scope; 7 the amount; 8 how many of the following are the arm's own;
--          9, 10, ... accounts that match if in force, the arm's own first
-- Returns  1 if the money is set aside, or was before; -1 if another reservation pays for the request; -2 if a period is
--          over; else 0

local known = redis.call('HMGET', KEYS[6], 'state', 'scope', 'amount')
if known[1] then
  local granted = known[1] == 'open' or known[1] == 'settled'
  return granted and known[2] == ARGV[6] and known[3] == ARGV[7] and 1 or 0
end

if KEYS[7] then
  local other = redis.call('GET', KEYS[7])
  if other then -- its key is like ours, and in the same slot
    local state = redis.call('HGET', string.sub(KEYS[6], 1, #KEYS[6] - #ARGV[4]) .. other, 'state')
    if state == 'open' or state == 'settled' or state == 'late' then return -1 end
  end
end

local wanted, books, own = tonumber(ARGV[7]), {}, false
local in_force = redis.call('HMGET', KEYS[3], unpack(ARGV, 9))
for i, terms in ipairs(in_force) do
  if terms then
    local start, until_ = terms_of(terms)
    if tonumber(until_) <= now then return -2 end
    local book = start .. ':' .. ARGV[8 + i]
    if room(book) < wanted then return 0 end
    books[#books + 1] = book
    own = own or i <= tonumber(ARGV[8])
  end
end
if not own then return 0 end

for i, book in ipairs(books) do
  add('reserved', book, wanted)
  books[i] = number_of(book)
end
local created = string.format('%.17g', now)
redis.call('HSET', KEYS[6], 'state', 'open', 'scope', ARGV[6], 'amount', ARGV[7], 'created', created,
  'books', table.concat(books, '\n'))
redis.call('ZADD', KEYS[5], created, ARGV[4])
if KEYS[7] then redis.call('SET', KEYS[7], ARGV[4], 'EX', ARGV[3]) end
return 1
