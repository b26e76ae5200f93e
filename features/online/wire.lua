-- Feast's serialised Values (protocol buffers) as the scripts need them. A list is handled as the bytes of its items:
-- 8 for a number; tag, length and text for a text.

local byte, sub = string.byte, string.sub
local NUMBERS, TEXTS = '\122', '\98' -- tags of Value.double_list_val (15) and Value.string_list_val (12)

local function varint(bytes, at) -- the number at a place, and the place after it
  local value, scale = byte(bytes, at), 128
  if value < 128 then return value, at + 1 end
  value = value - 128
  repeat
    at = at + 1
    local more = byte(bytes, at)
    value = value + more % 128 * scale
    scale = scale * 128
  until more < 128
  return value, at + 1
end

local function prefixed(bytes) -- with its length in front
  local length, head = #bytes, ''
  while length >= 128 do
    head = head .. string.char(length % 128 + 128)
    length = math.floor(length / 128)
  end
  return head .. string.char(length) .. bytes
end

local function texts(value)
  if not value or sub(value, 1, 1) ~= TEXTS then return '' end
  local _, first = varint(value, 2)
  return sub(value, first)
end

local function numbers(value)
  if not value or sub(value, 1, 1) ~= NUMBERS then return '' end
  local length, at = varint(value, 2)
  if length == 0 then return '' end
  local _, first = varint(value, at + 1)
  return sub(value, first)
end

local function of_texts(list) return TEXTS .. prefixed(list) end

local function of_numbers(list) return NUMBERS .. prefixed('\10' .. prefixed(list)) end

local function number_at(list, i) return (struct.unpack('<d', list, 8 * i - 7)) end

local function skip(list, at, count) -- the byte after so many texts from a byte on; infinite if there are fewer
  for _ = 1, count do
    if at >= #list then return math.huge end
    local length, first = varint(list, at + 2)
    at = first - 1 + length
  end
  return at
end

local function put(written, expire) -- fields and values in turn
  redis.call('HSET', KEYS[1], unpack(written))
  if expire > 0 then redis.call('EXPIRE', KEYS[1], expire) end
  return 1
end
