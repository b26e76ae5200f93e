-- Merges what a log says of a user into the history: the newest n of the touchpoints that either has.
-- KEYS[1]  the user's hash
-- ARGV     1 n; 2 seconds until the hash expires, or 0; 3 field of the view's event time; 4 the log's newest time as
--          Timestamp; 5 fields of the columns, 4 bytes each, the times first and then the channels; 6 their kinds, "d"
--          (double), "o" (double, an outcome), "t" (double, the time of one) or "s" (text); 7, 8, ... the log's columns
--          as Values
-- Returns  1, or 0 if the history stays as it is.

local n, expire, kinds = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[6]
local fields = {}
for i = 1, #kinds do fields[i] = sub(ARGV[5], 4 * i - 3, 4 * i) end
local stored = redis.call('HMGET', KEYS[1], unpack(fields))
local same = true -- as nearly always
for c = 1, #fields do same = same and stored[c] == ARGV[6 + c] end
if same then return 0 end

local unknown = { d = struct.pack('<d', 0 / 0), t = struct.pack('<d', 0 / 0), o = struct.pack('<d', 0), s = '\10\0' }

local function items(value, kind) -- each one's bytes
  local list, all, at = kind == 's' and texts(value) or numbers(value), {}, 0
  while at < #list do
    local after = kind == 's' and skip(list, at, 1) or at + 8
    all[#all + 1] = sub(list, at + 1, after)
    at = after
  end
  return all
end

local stored_items, logged, whole = {}, {}, true
for c = 1, #fields do
  local kind = sub(kinds, c, c)
  stored_items[c], logged[c] = items(stored[c], kind), items(ARGV[6 + c], kind)
  if #stored_items[c] == 0 then -- a column that the data set did not have before
    for i = 1, #stored_items[1] do stored_items[c][i] = unknown[kind] end
  end
  whole = whole and #stored_items[c] == #stored_items[1]
  if #logged[c] ~= #logged[1] then return redis.error_reply('ERR columns of different lengths') end
end
if not whole then -- broken: it can't be told which values belong together
  for c = 1, #fields do stored_items[c] = {} end
end

local stored_times, logged_times = stored_items[1], logged[1]
local places, i, j = {}, 1, 1 -- of each touchpoint in stored and logged, 0 where it is absent
while stored_times[i] or logged_times[j] do
  local a = stored_times[i] and number_at(stored_times[i], 1) or math.huge
  local b = logged_times[j] and number_at(logged_times[j], 1) or math.huge
  places[#places + 1] = { a <= b and i or 0, b <= a and j or 0 }
  if a <= b then i = i + 1 end
  if b <= a then j = j + 1 end
end

local function value(c, kind, place)
  local x, y = stored_items[c][place[1]], logged[c][place[2]]
  if not y then return x end
  -- The log decides, unless it does not know an outcome yet. With another channel it is another touchpoint.
  if x and (kind == 'o' or kind == 't') and stored_items[2][place[1]] == logged[2][place[2]] then
    local number = number_at(y, 1)
    if number == 0 or number ~= number then return x end
  end
  return y
end

local written = {}
for c, field in ipairs(fields) do
  local kind, list = sub(kinds, c, c), {}
  for p = math.max(#places - n, 0) + 1, #places do list[#list + 1] = value(c, kind, places[p]) end
  local joined = table.concat(list)
  joined = kind == 's' and of_texts(joined) or of_numbers(joined)
  if joined ~= stored[c] then
    written[#written + 1] = field
    written[#written + 1] = joined
  end
end
if #written == 0 then return 0 end
local newest = stored_times[#stored_times]
if not newest or number_at(logged_times[#logged_times], 1) > number_at(newest, 1) then
  written[#written + 1] = ARGV[3]
  written[#written + 1] = ARGV[4]
end
return put(written, expire)
