-- Returns  account, start of the period, cap, spent, reserved and excess in turn, of the accounts in force in their present
--          periods; -2 if one of these is over

local found, in_force = {}, redis.call('HGETALL', KEYS[3])
for i = 1, #in_force, 2 do
  local start, until_ = terms_of(in_force[i + 1])
  if tonumber(until_) <= now then return -2 end
  local cap, spent, reserved, excess = seen_in(start .. ':' .. in_force[i])
  found[#found + 1] = { in_force[i], start, cap, spent, reserved, excess }
end
return found
