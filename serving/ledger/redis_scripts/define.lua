-- Sets which accounts of a campaign are in force. If the parts of a budget have changed, also sets new limits for the
-- current period.
-- KEYS  4  The campaign's key terms:CAMPAIGN
--       5  Hash: campaign -> digest of its accounts in force
-- ARGV  4  The campaign
--       5  The digest
--       6, 7, ...  For each account, seven values: the account; the account of all arms together; limit; start and end
--                  of the current period by the calendar; time zone; parts of the budget, or 'slice' if the account is
--                  a slice, whose limit only `grant` raises. The account of all arms comes before those of single arms

local general = redis.call('HMGET', KEYS[1], 'generation', 'changes')
check(general[1])
local fields, accounts, terms = {}, {}, {}
local function each(key, take)
  local hash = redis.call('HGETALL', key)
  for i = 1, #hash, 2 do take(hash[i], hash[i + 1]) end
end
each(prefix .. 'accounts:' .. ARGV[4], function(name, text)
  if string.sub(name, 1, 1) ~= '"' then return end
  local field = read(ARGV[4], name, text)
  fields[name] = field
  for _, a in ipairs(field) do
    accounts[name .. ',' .. a.period] = a
    a.in_force = '0'
  end
end)
each(KEYS[4], function(name, text) terms[name] = text end)
redis.call('DEL', KEYS[4])

for i = 6, #ARGV, 7 do
  local account, all_arms, cap, start, until_, zone, parts = unpack(ARGV, i, i + 6)
  local name, period = string.match(account, '^(.*),(%a+)$')
  local a, all = accounts[account], account ~= all_arms and accounts[all_arms]
  local began, ends = a and a.start or '0', a and a.until_ or '0'
  -- If the caller's clock is ahead, it has computed a later period. The current period then keeps its end.
  if tonumber(ends) > present() and tonumber(start) >= tonumber(ends) then until_ = ends end
  start = start_after(began, ends, start, period)
  if all and all.in_force == '1' then -- all parts of a budget have the same periods
    start, until_ = all.start, all.until_
  else
    all = nil
  end
  if not a then
    local field = fields[name] or { campaign = ARGV[4], name = name }
    a = { period = period, drawn = '0', start = start, cap = tonumber(cap), spent = 0, reserved = 0, field = field }
    fields[name], accounts[account], field[#field + 1] = field, a, a
  end
  turn(a, start, until_, cap)
  a.in_force = '1'
  if parts ~= 'slice' and (not terms[account] or string.match(terms[account], '^%S+ %S+ (.*)$') ~= parts) then
    a.cap = tonumber(cap)
    if all then -- the same rule as `limit_after_a_change` in contract.py
      local more = all.cap > 0 and math.floor(a.cap / all.cap * math.max(0, all.cap - all.spent)) or 0
      a.cap = math.max(a.spent + a.reserved, a.spent + more)
    end
  end
  redis.call('HSET', KEYS[4], account, table.concat({ cap, zone, parts }, ' '))
end
local found = {}
for _, field in pairs(fields) do found[#found + 1] = field end
save(found, tonumber(general[2] or 0))
redis.call('HSET', KEYS[5], ARGV[4], ARGV[5])
return 1
