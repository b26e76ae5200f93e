-- Runs in the bank's group: updates the bank's accounts from the slices of another group, and enlarges these slices if
-- requested.
-- KEYS     4  Hash slices:GROUP: account -> "START EPOCH CAP SPENT". CAP is the limit of the slice, and SPENT its last
--             reported spend. The bank counts CAP - SPENT as reserved
-- ARGV     4  A slice grows by at least the account's free amount divided by this number
--          5, 6, ...  For each slice, six values: account, start of its period, epoch, limit and spent amount of the
--                     slice, and the amount by which it must grow at least, or 0 if it should not grow
-- Returns  For each slice that has grown: account, start, epoch and new limit. -2 instead, if the period of an account
--          has ended

local general = redis.call('HMGET', KEYS[1], 'generation', 'changes')
check(general[1])
local fields, slices, found = {}, {}, {}
for i = 5, #ARGV, 6 do
  local account, start, epoch, cap, spent, least = unpack(ARGV, i, i + 5)
  local name, period = string.match(account, '^(.*),(%a+)$')
  fields[name] = fields[name] or read(ANY, name, redis.call('HGET', KEYS[1], name))
  for _, a in ipairs(fields[name]) do
    if a.period == period and a.in_force == '1' and tonumber(a.until_) <= present() then return -2 end
    if a.period == period and a.start == start then
      local of, old_epoch, old_cap, old_spent = string.match(redis.call('HGET', KEYS[4], account) or '',
        '^(%S+) (%S+) (%S+) (%S+)$')
      local slice = { epoch = -1, cap = 0, spent = 0 }
      if of == start then slice = { epoch = tonumber(old_epoch), cap = tonumber(old_cap), spent = tonumber(old_spent) } end
      if tonumber(epoch) > slice.epoch then
        a.spent = a.spent + spent - slice.spent
        a.reserved = a.reserved + (cap - spent) - (slice.cap - slice.spent)
        slice = { epoch = tonumber(epoch), cap = tonumber(cap), spent = tonumber(spent) }
      end
      local free = a.cap - a.spent - a.reserved
      if tonumber(least) > 0 and a.in_force == '1' and slice.epoch == tonumber(epoch) and free >= tonumber(least) then
        local more = math.max(tonumber(least), math.floor(free / ARGV[4]))
        a.reserved, a.drawn, slice.cap = a.reserved + more, '1', slice.cap + more
        for _, value in ipairs({ account, start, epoch, string.format('%d', slice.cap) }) do found[#found + 1] = value end
      end
      slices[#slices + 1] = account
      slices[#slices + 1] = string.format('%s %d %d %d', start, slice.epoch, slice.cap, slice.spent)
    end
  end
end
local changed = {}
for _, field in pairs(fields) do changed[#changed + 1] = #field > 0 and field or nil end
if #slices > 0 then redis.call('HSET', KEYS[4], unpack(slices)) end
save(changed, tonumber(general[2] or 0))
return found
