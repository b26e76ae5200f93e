-- Puts a key's row of one view into its hash, unless the row there is newer, or the same.
-- KEYS[1]  the key's hash
-- ARGV     1 seconds until the hash expires, or 0; 2 field of the view's event time; 3 the row's time as Timestamp;
--          4, 5, ... fields and values in turn
-- Returns  1, or 0 if nothing was written.

local function moment(timestamp) -- seconds and nanoseconds since 1970
  local seconds, nanos, at, value = 0, 0, 1
  while at <= #timestamp do
    local tag = byte(timestamp, at)
    value, at = varint(timestamp, at + 1)
    if tag == 8 then seconds = value else nanos = value end
  end
  return seconds, nanos
end

local stored, expire = redis.call('HGET', KEYS[1], ARGV[2]), tonumber(ARGV[1])
if stored then
  local seconds, nanos = moment(ARGV[3])
  local seconds_there, nanos_there = moment(stored)
  if seconds < seconds_there or (seconds == seconds_there and nanos < nanos_there) then return 0 end
end
local same = stored == ARGV[3]
for i = 4, #ARGV, 2 do same = same and redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] end
if same then return 0 end
return put({ unpack(ARGV, 2) }, expire)
