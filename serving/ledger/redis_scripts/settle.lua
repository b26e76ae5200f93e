-- Turns a reservation into spend.
-- ARGV     4 the reservation's id; 5 the cost; 6 the event that told the cost; 7 seconds for which it is remembered; 8 'last', or
--          '': what accounts have too little left for is not excess yet
-- Returns  what is charged, and what is excess, in all; nothing for a reservation that never was; or -3, arm, channel, and the
--          amount for which an account has too little left

local id, event, seconds, cost = ARGV[4], ARGV[6], ARGV[7], tonumber(ARGV[5])
local r = find(id)
if not r then
  check(redis.call('HGET', KEYS[1], 'generation'))
  return {}
end
local accounts, fields, changes = accounts_of(r)
local function told() return { string.format('%d', r.charged), string.format('%.0f', r.excess) } end
for _, known in ipairs(r.events) do
  if known == event then return told() end
end

if r.state == 'c' then r.amount = 0 end -- nothing is set aside for it any more
local more = math.min(cost, r.amount - r.charged)
if r.state ~= 'o' then -- what the accounts have left pays for it
  local wanted = more
  for _, a in ipairs(accounts) do more = math.max(0, math.min(more, a.cap - a.spent - a.reserved)) end
  if more < wanted and ARGV[8] ~= 'last' then return { -3, r.arm, r.channel, string.format('%d', wanted) } end
end
for _, a in ipairs(accounts) do
  a.spent = a.spent + more
  if r.state == 'o' then a.reserved = a.reserved - r.amount end
  if cost > more then
    local sum = redis.pcall('HINCRBY', a.key, a.excess, ARGV[5]) -- beyond 64 bits it is the most that can be told
    if type(sum) == 'table' and sum.err then redis.call('HSET', a.key, a.excess, '9223372036854775807') end
    if more > 0 then redis.call('HINCRBY', a.key, a.excess, string.format('%d', -more)) end
  end
end
keep(accounts, fields, changes)
r.charged, r.excess = r.charged + more, r.excess + cost - more
r.events[#r.events + 1] = event
finish(id, r, (r.state == 'o' or r.state == 's') and 's' or 'l', seconds)
return told()
