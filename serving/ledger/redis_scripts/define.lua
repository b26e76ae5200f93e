-- Sets the accounts in force, and the limits of the present period where the parts of a budget have changed.
-- ARGV  4, 5, 6, ... in turn: account; the account of all arms, which comes before those of its arms; cap; start and end
--       of the present period; period, zone and parts

local before, in_force = {}, redis.call('HGETALL', KEYS[3])
for i = 1, #in_force, 2 do
  before[in_force[i]] = in_force[i + 1]
  local start, until_ = terms_of(in_force[i + 1]) -- also of what is left out now
  redis.call('HSET', KEYS[4], 'start:' .. in_force[i], start, 'until:' .. in_force[i], until_)
end
redis.call('DEL', KEYS[3])

local function parts_of(rest) return string.match(rest or '', '^%S+ %S+ (.*)$') end

local starts = {} -- of the accounts of all arms: the parts of a budget keep one calendar
for i = 4, #ARGV, 6 do
  local account, all_arms, cap, start, until_, rest = unpack(ARGV, i, i + 5)
  local _, _, old_rest = terms_of(before[account])
  local seen = redis.call('HMGET', KEYS[4], 'start:' .. account, 'until:' .. account)
  start = start_after(seen[1] or 0, seen[2] or 0, start, rest)
  start = starts[all_arms] or start
  if account == all_arms then starts[account] = start end
  redis.call('HSET', KEYS[2], account, cap)
  redis.call('HSET', KEYS[3], account, start .. ' ' .. until_ .. ' ' .. rest)
  if parts_of(old_rest) ~= parts_of(rest) then
    local book, limit = start .. ':' .. account, tonumber(cap)
    if account ~= all_arms and starts[all_arms] then -- limit_after_a_change, in contract.py
      local _, spent, reserved = seen_in(book)
      local all, all_spent = seen_in(start .. ':' .. all_arms)
      local more = tonumber(all) > 0 and math.floor(limit / all * math.max(0, all - all_spent)) or 0
      limit = math.max(spent + reserved, spent + more)
    end
    redis.call('HSET', KEYS[4], 'cap:' .. book, whole(limit))
  end
end
return 1
