-- Overwrites numbers of one touchpoint in a user's history.
-- KEYS[1]  the user's hash
-- ARGV     1 fields of the columns, 4 bytes each, the times first; 2 the touchpoint's time as the 8 bytes of a double;
--          3, 4, ... the new values of the columns after the times, 8 bytes each
-- Returns  1, or 0 if the history has no touchpoint at that time.

local fields = {}
for i = 1, #ARGV[1] / 4 do fields[i] = sub(ARGV[1], 4 * i - 3, 4 * i) end
local stored = redis.call('HMGET', KEYS[1], unpack(fields))

local times, at = numbers(stored[1]), number_at(ARGV[2], 1)
local place = #times / 8
while place > 0 and number_at(times, place) ~= at do place = place - 1 end
if place == 0 then return 0 end

local written = {}
for i = 2, #fields do
  local list = numbers(stored[i])
  if #list ~= #times then return redis.error_reply('ERR columns of different lengths') end
  list = sub(list, 1, 8 * place - 8) .. ARGV[i + 1] .. sub(list, 8 * place + 1)
  written[#written + 1] = fields[i]
  written[#written + 1] = of_numbers(list)
end
if #written > 0 then redis.call('HSET', KEYS[1], unpack(written)) end
return 1
