-- What all scripts of the ledger begin with.
-- KEYS  1 the generation, a text that `define` wrote once; 2 hash: account -> cap of a period that begins;
--       3 hash: account in force -> its terms; 4 hash: "cap:BOOK", "spent:BOOK", "reserved:BOOK", "excess:BOOK",
--       "number:BOOK" and "book:NUMBER", "numbers", the last one that was given, and "start:ACCOUNT" and
--       "until:ACCOUNT" of its latest period; 5 sorted set: open reservations by time of creation;
--       6, ... reservations: hashes of state, scope, amount, created, charged, cost, books, "event:ID" of each cost
-- ARGV  1 the generation that the caller has seen; 2 the time, or '' for this server's; 3 seconds for which a reservation
--       that was given back is remembered; 4, ... the script's own
--
-- An account is the JSON of arm, campaign, channel, period; a book "START:ACCOUNT". An account's terms are "START UNTIL
-- PERIOD ZONE PARTS": its present period, and how its budget is divided; START never falls. Scripts know no calendar: if
-- a period is over, they answer so, and the caller begins the next one (`begin`). Amounts are whole nano-units, of which
-- a double holds 2^53: no limit and no reservation is above 9e15, and HINCRBY adds in 64 bits.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('LOST its accounts, or they were set anew: nothing is spent until they are restored or '
    .. 'the callers restart')
end

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end

local function whole(number) return string.format('%.0f', number) end

local function terms_of(text) return string.match(text or '', '^(%S+) (%S+) (.*)$') end

local SHORTEST = { total = 0, day = 23 * 3600, hour = 3600 } -- as in mtorl/policy/periods.py

local function start_after(start, until_, next_start, rest) -- `period_after`, there: when the period in force began
  local begins = tonumber(until_) <= now and next_start - start >= SHORTEST[string.match(rest, '^%S+')]
  return begins and next_start or start
end

local function add(what, book, amount) redis.call('HINCRBY', KEYS[4], what .. ':' .. book, whole(amount)) end

local function book_cap(book) return redis.call('HGET', KEYS[2], string.match(book, '^[^:]*:(.*)$')) end

local function seen_in(book) -- cap, spent, reserved, excess
  local seen = redis.call('HMGET', KEYS[4], 'cap:' .. book, 'spent:' .. book, 'reserved:' .. book, 'excess:' .. book)
  return seen[1] or book_cap(book), seen[2] or '0', seen[3] or '0', seen[4] or '0'
end

local function room(book)
  local cap, spent, reserved = seen_in(book)
  return cap - spent - reserved
end

local function number_of(book) -- as a reservation names it: memory is full of them
  local number = redis.call('HGET', KEYS[4], 'number:' .. book)
  if not number then
    number = whole(redis.call('HINCRBY', KEYS[4], 'numbers', 1))
    redis.call('HSET', KEYS[4], 'number:' .. book, number, 'book:' .. number, book)
    redis.call('HSETNX', KEYS[4], 'cap:' .. book, book_cap(book)) -- a later limit is that of later periods
  end
  return number
end

local function each(books) -- of a reservation, which names them by their numbers
  local next_number = string.gmatch(books, '[^\n]+')
  return function()
    local number = next_number()
    return number and redis.call('HGET', KEYS[4], 'book:' .. number)
  end
end

local function finish(key, id, state, seconds) -- a finished reservation is forgotten after a while
  redis.call('HSET', key, 'state', state)
  redis.call('ZREM', KEYS[5], id)
  redis.call('EXPIRE', key, seconds)
end

local function give_back(key, id, state) -- ends an open reservation without a cost; its state before
  local known = redis.call('HMGET', key, 'state', 'amount', 'books')
  if known[1] == 'open' then
    for book in each(known[3]) do add('reserved', book, 0 - known[2]) end
    finish(key, id, state, ARGV[3])
  end
  return known[1]
end
