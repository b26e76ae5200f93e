-- Raises the limits of a group's slices to the amounts that the bank has leased to them. A slice stays unchanged if it
-- was recalled after the lease (its epoch differs), or if its period has ended.
-- ARGV  4, 5, 6, 7, ...  For each slice: account, start of its period, epoch, and new limit

local general = redis.call('HMGET', KEYS[1], 'generation', 'changes')
check(general[1])
local fields, changed = {}, {}
for i = 4, #ARGV, 4 do
  local name, period = string.match(ARGV[i], '^(.*),(%a+)$')
  fields[name] = fields[name] or read(ANY, name, redis.call('HGET', KEYS[1], name))
  local epoch = redis.call('HGET', KEYS[1], 'epoch:' .. ARGV[i]) or '0'
  for _, a in ipairs(fields[name]) do
    if a.period == period and a.start == ARGV[i + 1] and epoch == ARGV[i + 2] then
      a.cap = math.max(a.cap, tonumber(ARGV[i + 3]))
    end
  end
end
for _, field in pairs(fields) do changed[#changed + 1] = #field > 0 and field or nil end
save(changed, tonumber(general[2] or 0))
return 1
