-- Turns a reservation into spend.
-- KEYS     6 the reservation
-- ARGV     4 its id; 5 the cost; 6 seconds for which a settled reservation is remembered; 7 the event that told the cost
-- Returns  what is charged, and the cost, in all; nothing for a reservation that never was

local known = redis.call('HMGET', KEYS[6], 'state', 'amount', 'books', 'charged', 'cost', 'scope', 'event:' .. ARGV[7])
local state, amount, books, charged = known[1], tonumber(known[2]), known[3] or '', tonumber(known[4] or '0')
if not state then return {} end
local before = state == 'settled' or state == 'late'
if known[7] then return { whole(charged), known[5] } end

if state == 'cancelled' then amount = 0 end -- nothing is set aside for it any more
local more = math.min(tonumber(ARGV[5]), amount - charged)
if state ~= 'open' then -- what the accounts have left pays for it
  for book in each(books) do more = math.max(0, math.min(more, room(book))) end
end
local function count(key, field) -- costs beyond 64 bits are the most that can be told; they must not stop the ledger
  local sum = redis.pcall('HINCRBY', key, field, ARGV[5])
  if type(sum) == 'table' and sum.err then redis.call('HSET', key, field, '9223372036854775807') end
end
count(KEYS[6], 'cost')
for book in each(books) do count(KEYS[4], 'excess:' .. book) end
for book in each(books) do
  add('excess', book, 0 - more)
  add('spent', book, more)
  if state == 'open' then add('reserved', book, 0 - amount) end
end
local cost = redis.call('HGET', KEYS[6], 'cost') -- as text: the number may be beyond what a double holds
if not before then redis.call('DEL', KEYS[6]) end -- memory is full of them: a hash never shrinks
redis.call('HSET', KEYS[6], 'scope', known[6] or '', 'amount', whole(amount), 'charged', whole(charged + more),
  'cost', cost, 'books', books, 'event:' .. ARGV[7], '1')
finish(KEYS[6], ARGV[4], (state == 'open' or state == 'settled') and 'settled' or 'late', ARGV[6])
return { whole(charged + more), cost }
