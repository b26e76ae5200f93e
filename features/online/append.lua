-- Inserts one touchpoint into a user's history.
-- KEYS[1]  the user's hash
-- ARGV     1 n; 2 seconds until the hash expires, or 0; 3 field of the view's event time; 4 the touchpoint's time as
--          Timestamp; 5 fields of the columns, 4 bytes each, the times first; 6 their kinds, "d" (double), "o" (an
--          outcome: a double) or "s" (text); 7, 8, ... the touchpoint's values, a double as its 8 bytes
-- Returns  1, or 0 if the history has it already or it is too old.

local n, expire, kinds = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[6]
local fields = {}
for i = 1, #kinds do fields[i] = sub(ARGV[5], 4 * i - 3, 4 * i) end
local stored = redis.call('HMGET', KEYS[1], unpack(fields))

local times, at = numbers(stored[1]), number_at(ARGV[7], 1)
local k = #times / 8
local before = k -- touchpoints before this one
while before > 0 and number_at(times, before) >= at do
  if number_at(times, before) == at then return 0 end
  before = before - 1
end
local dropped = math.max(k + 1 - n, 0) -- how many of the oldest ones have to go
if before < dropped then return 0 end

local written = {}
for i, field in ipairs(fields) do
  local number, item = sub(kinds, i, i) ~= 's', ARGV[6 + i]
  local list, first, place, last -- its bytes; the first that stays, where the new item goes, and the end
  if number then
    list = numbers(stored[i])
    first, place, last = 8 * dropped, 8 * before, 8 * k
  else
    list, item = texts(stored[i]), '\10' .. prefixed(item)
    first = skip(list, 0, dropped)
    place = skip(list, first, before - dropped)
    last = skip(list, place, k - before)
  end
  if #list ~= last then return redis.error_reply('ERR columns of different lengths') end
  list = sub(list, first + 1, place) .. item .. sub(list, place + 1)
  written[2 * i - 1], written[2 * i] = field, number and of_numbers(list) or of_texts(list)
end
if before == k then
  written[#written + 1] = ARGV[3]
  written[#written + 1] = ARGV[4]
end
return put(written, expire)
