-- Begins the next period of each account of a campaign whose period has ended.
-- KEYS  4  The campaign's key terms:CAMPAIGN
-- ARGV  4  The campaign
--       5, 6, 7, ...  For each account: the account, the start and the end of its current period by the calendar

local general = redis.call('HMGET', KEYS[1], 'generation', 'changes')
check(general[1])
local begun, fields = {}, {}
for i = 5, #ARGV, 3 do
  local name, period = string.match(ARGV[i], '^(.*),(%a+)$')
  local field = fields[name] or read(ARGV[4], name, redis.call('HGET', prefix .. 'accounts:' .. ARGV[4], name))
  fields[name] = field
  for _, a in ipairs(field) do
    local terms = a.period == period and a.in_force == '1' and tonumber(a.until_) <= present()
      and redis.call('HGET', KEYS[4], ARGV[i])
    if terms then
      turn(a, start_after(a.start, a.until_, ARGV[i + 1], period), ARGV[i + 2], string.match(terms, '^%S+'))
      begun[name] = field
    end
  end
end
local found = {}
for _, field in pairs(begun) do found[#found + 1] = field end
save(found, tonumber(general[2]))
return 1
