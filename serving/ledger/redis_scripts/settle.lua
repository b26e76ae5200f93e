-- Charges a reported cost of a reservation to its accounts. A cost above the reserved amount is excess.
-- ARGV     4  Id of the reservation
--          5  The cost
--          6  The event that reported the cost. If the event is known, nothing changes
--          7  Seconds until the settled reservation expires
--          8  'last' to count what the accounts can't pay as excess; '' to answer -3 then, so that the caller can
--             enlarge a slice first
-- Returns  The charged amount and the excess of the reservation, over all its costs
--          Nothing, if the reservation is unknown
--          -3, arm, channel, and the amount that should be charged, if an account has too little money left

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

if r.state == 'c' then r.amount = 0 end -- a cancelled reservation has no amount, so its whole cost is excess
local more = math.min(cost, r.amount - r.charged)
if r.state ~= 'o' then -- the reserved amount was released, so only money that the accounts still have can pay
  local wanted = more
  for _, a in ipairs(accounts) do more = math.max(0, math.min(more, a.cap - a.spent - a.reserved)) end
  if more < wanted and ARGV[8] ~= 'last' then return { -3, r.arm, r.channel, string.format('%d', wanted) } end
end
for _, a in ipairs(accounts) do
  a.spent = a.spent + more
  if r.state == 'o' then a.reserved = a.reserved - r.amount end
  if cost > more then
    local sum = redis.pcall('HINCRBY', a.key, a.excess, ARGV[5]) -- fails above 2^63 - 1
    if type(sum) == 'table' and sum.err then redis.call('HSET', a.key, a.excess, '9223372036854775807') end
    if more > 0 then redis.call('HINCRBY', a.key, a.excess, string.format('%d', -more)) end
  end
end
keep(accounts, fields, changes)
r.charged, r.excess = r.charged + more, r.excess + cost - more
r.events[#r.events + 1] = event
finish(id, r, (r.state == 'o' or r.state == 's') and 's' or 'l', seconds)
return told()
