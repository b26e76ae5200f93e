-- Returns  account, start of the period, cap, spent, reserved and excess in turn, of the accounts in force in their present periods

local found, in_force = {}, redis.call('HGETALL', KEYS[3])
for i = 1, #in_force, 2 do
  local account, book = in_force[i], book_of(in_force[i], in_force[i + 1])
  local seen = redis.call('HMGET', KEYS[4], 'spent:' .. book, 'reserved:' .. book, 'excess:' .. book)
  found[#found + 1] = { account, string.match(book, '^[^:]*'), redis.call('HGET', KEYS[2], account), seen[1] or '0',
    seen[2] or '0', seen[3] or '0' }
end
return found
