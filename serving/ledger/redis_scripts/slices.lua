-- Returns slices of a group. With 'back', it first reduces the limit of each slice to its spent and reserved amounts,
-- so that the rest can return to the bank.
-- ARGV     4  'back' to reduce and return all slices; '' to return the slices for arm and channel unchanged
--          5, 6  Without 'back': arm and channel. Only slices that match them are returned
-- Returns  For each slice: account, start of its period, epoch, limit, spent amount, and free amount. After
--          'back', the free amount is what returns to the bank

local general = redis.call('HMGET', KEYS[1], 'generation', 'changes')
check(general[1])
local back, hash, matching, changed, found = ARGV[4] == 'back', redis.call('HGETALL', KEYS[1]), {}, {}, {}
for _, name in ipairs(back and {} or fields_of(ARGV[5], ARGV[6])) do matching[name] = true end
for i = 1, #hash, 2 do
  local name = hash[i]
  local field = (matching[name] or back and string.sub(name, 1, 1) == '"') and read(ANY, name, hash[i + 1]) or {}
  for _, a in ipairs(field) do
    local account, committed = name .. ',' .. a.period, a.spent + a.reserved
    if back and a.cap > committed then
      a.cap = committed
      changed[#changed + (changed[#changed] == field and 0 or 1)] = field
    end
    local epoch = redis.call('HINCRBY', KEYS[1], 'epoch:' .. account, back and 1 or 0)
    for _, value in ipairs({ account, a.start, tostring(epoch), string.format('%d', a.cap), string.format('%d', a.spent),
      string.format('%d', a.cap - committed) }) do found[#found + 1] = value end
  end
end
save(changed, tonumber(general[2] or 0))
return found
