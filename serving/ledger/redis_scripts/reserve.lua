-- Reserves an amount in all accounts that match an arm, a campaign and a channel, or in none of them.
-- KEYS     4  The reservation's key r:ID
--          5  The request's key q:REQUEST, if the request has an id
-- ARGV     4  Id of the reservation
--          5, 6, 7, 8  Arm, campaign, channel and amount
--          9  Id of the request, or ''
-- Returns  1   The amount is reserved, by this call or by an earlier call with the same reservation id
--          0   An account has too little money left, or no account is for this arm
--          -1  Another reservation pays for the request
--          -2  The period of an account has ended
--          -3  An account of the campaign "*" has too little money left

local id, arm, campaign, channel, amount, request = unpack(ARGV, 4, 9)
local names = fields_of(arm, channel)
local general = redis.call('HMGET', KEYS[1], 'generation', 'changes', unpack(names))
check(general[1])

local known = redis.call('MGET', unpack(KEYS, 4))
if known[1] then
  local r = reservation(known[1])
  local granted = (r.state == 'o' or r.state == 's') and r.amount == tonumber(amount)
  return granted and r.arm == arm and r.campaign == campaign and r.channel == channel and 1 or 0
end
local other = known[2] and find(known[2])
if other and string.find('osl', other.state) then return -1 end

local wanted, fields, books, own = tonumber(amount), {}, '', false
-- Reserves the amount in the matching accounts of one campaign, in memory. Returns the code of a refusal; nil if all
-- accounts can pay.
local function draw(of, texts, before)
  local refused
  for i, name in ipairs(names) do
    local field = texts[before + i] and read(of, name, texts[before + i]) or {}
    for _, a in ipairs(field) do
      if a.in_force == '1' then
        if tonumber(a.until_) <= present() then return -2 end
        if math.max(0, a.cap - a.spent - a.reserved) < wanted then refused = of == ANY and -3 or 0 end
        a.reserved, a.drawn = a.reserved + wanted, '1'
        books = books .. string.char(letter_of(of, i, a.period)) .. (a.start == '0' and '' or a.start)
        own = own or string.sub(name, 1, #arm + 1) == arm .. ','
        fields[#fields + (fields[#fields] == field and 0 or 1)] = field
      end
    end
  end
  return refused
end
local refused = draw(ANY, general, 2)
if refused ~= -2 and campaign ~= ANY then
  refused = draw(campaign, redis.call('HMGET', prefix .. 'accounts:' .. campaign, unpack(names)), 0) or refused
end
if refused or not own then return refused or 0 end

save(fields, tonumber(general[2]))
redis.call('ZADD', KEYS[3], string.format('%.17g', present()), id)
local text = text_of({ state = 'o', amount = wanted, charged = 0, excess = 0, books = books, arm = arm,
  campaign = campaign, channel = channel, request = request, events = {} })
if request == '' then redis.call('SET', KEYS[4], text) else redis.call('MSET', KEYS[4], text, KEYS[5], id) end
return 1
