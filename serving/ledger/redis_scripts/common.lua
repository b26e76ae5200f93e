-- Functions that every script of the ledger needs. `redis_server.py` puts this file in front of each script's own text.
--
-- Every script gets these keys and arguments first, and its own ones from position 4:
-- KEYS  1  Hash with the accounts of the campaign "*". For all campaigns together, it also has the fields "generation"
--          (a text that is written once, when the ledger is created) and "changes" (the number of the last change)
--       2  Sorted set: campaigns, sorted by the number of their last change
--       3  Sorted set: open reservations, sorted by time of creation
-- ARGV  1  The generation that the caller read first
--       2  The time in seconds since 1970; '' to use the clock of this server
--       3  The prefix of all keys
--
-- A Redis Cluster has several groups of keys (`redis_ledger.py`), and a script uses only one of them. One group, the
-- bank, has the whole budgets of the campaign "*". The bank's accounts:"*" also has the field "made": it is set once
-- all groups have a generation. In each other group, accounts:"*" has that group's slices of these budgets, and a field
-- "epoch:ACCOUNT" that counts the recalls of a slice to the bank.
--
-- Keys, without the prefix. Names, requests and events are JSON texts. An ACCOUNT is written as "ARM,CHANNEL,PERIOD".
--   accounts:CAMPAIGN  Hash: "ARM,CHANNEL" -> "PERIOD IN_FORCE DRAWN START UNTIL CAP SPENT RESERVED;" for each account,
--                      in its current period. IN_FORCE is 1 if the experiment has this account. DRAWN is 1 if a
--                      reservation has used it in this period. A field "excess:ACCOUNT" has the costs that the account
--                      could not pay
--   terms:CAMPAIGN     Hash: account in force -> "CAP ZONE PARTS". CAP is the limit of the next period, ZONE the time
--                      zone, and PARTS says how the budget is divided into accounts
--   past:DAY:CAMPAIGN  Hash: "START:ACCOUNT" -> "CAP SPENT RESERVED" of an ended period that began on this day (counted
--                      from 1970), and "excess:START:ACCOUNT". It expires after some days
--   r:ID               Reservation, one line for each of: state (first letter of open, settled, late, cancelled or
--                      expired), amount, charged, excess, books, arm, campaign, channel, request, and the event of each
--                      reported cost
--   q:REQUEST          Id of the last reservation for a request
--   slices:GROUP       Only in the bank: the slices of another group (`lease.lua`)
--
-- The books of a reservation list the account periods that it reduces: one letter for each account (`letter_of`),
-- followed by START, if START is not 0. An account's START never decreases. Scripts can't compute calendars. If a
-- period has ended, the script answers so, and the caller runs `begin` for the next period. Amounts are integers in
-- nano-units. Lua's doubles are exact up to 2^53, so no limit and no reservation may exceed 9e15. Excess may be larger,
-- so Redis adds it as a 64-bit integer.

local ANY, PERIODS = '"*"', { total = 1, day = 2, hour = 3 }
local prefix, now = ARGV[3], tonumber(ARGV[2])

local function check(generation)
  if generation ~= ARGV[1] then
    error('LOST its accounts, or they were set anew: nothing is spent until they are restored or the callers restart', 0)
  end
end

local function present()
  if not now then
    local time = redis.call('TIME')
    now = time[1] + time[2] / 1e6
  end
  return now
end

-- Returns the fields "ARM,CHANNEL" that a reservation matches. They are the same in its own campaign and in the
--         campaign "*".
local function fields_of(arm, channel)
  local found = { arm .. ',' .. channel }
  if channel ~= ANY then found[2] = arm .. ',' .. ANY end
  if arm ~= ANY then
    found[#found + 1] = ANY .. ',' .. channel
    if channel ~= ANY then found[#found + 1] = ANY .. ',' .. ANY end
  end
  return found
end

-- Returns the code of the letter for an account in the i-th matching field: A to L for the campaign "*", a to l for
--         others.
local function letter_of(campaign, i, period)
  return (campaign == ANY and 61 or 93) + 3 * i + PERIODS[period]
end

local function read(campaign, name, text) -- parses a field into a list of its accounts
  local field = { campaign = campaign, name = name }
  for period, in_force, drawn, start, until_, cap, spent, reserved in
    string.gmatch(text or '', '(%S+) (%d) (%d) (%S+) (%S+) (%S+) (%S+) (%S+);')
  do
    field[#field + 1] = { period = period, in_force = in_force, drawn = drawn, start = start, until_ = until_,
      cap = tonumber(cap), spent = tonumber(spent), reserved = tonumber(reserved), field = field }
  end
  return field
end

-- Writes fields, and numbers the change of each campaign, counting on from `changes`, the number of the last change.
local function save(fields, changes)
  local general, changed = { 'changes', 0 }, {}
  local sets = { [ANY] = general }
  for _, field in ipairs(fields) do
    local texts, set = {}, sets[field.campaign]
    for i, a in ipairs(field) do
      texts[i] = string.format('%s %s %s %s %s %d %d %d;', a.period, a.in_force, a.drawn, a.start, a.until_, a.cap, a.spent,
        a.reserved)
    end
    if not set then
      set = {}
      sets[field.campaign] = set
    end
    set[#set + 1] = field.name
    set[#set + 1] = table.concat(texts)
  end
  for campaign, set in pairs(sets) do
    if set ~= general or #set > 2 then
      changes = changes + 1
      changed[#changed + 1] = string.format('%d', changes)
      changed[#changed + 1] = campaign
    end
  end
  if #changed == 0 then return end
  general[2] = string.format('%d', changes)
  for campaign, set in pairs(sets) do
    local key = campaign == ANY and KEYS[1] or prefix .. 'accounts:' .. campaign
    for i = 1, #set, 1000 do redis.call('HSET', key, unpack(set, i, math.min(i + 999, #set))) end
  end
  redis.call('ZADD', KEYS[2], unpack(changed))
end

local function reservation(text)
  local lines = {}
  for line in string.gmatch(text .. '\n', '([^\n]*)\n') do lines[#lines + 1] = line end
  return { state = lines[1], amount = tonumber(lines[2]), charged = tonumber(lines[3]), excess = tonumber(lines[4]),
    books = lines[5], arm = lines[6], campaign = lines[7], channel = lines[8], request = lines[9],
    events = { unpack(lines, 10) } }
end

local function find(id)
  local text = redis.call('GET', prefix .. 'r:' .. id)
  return text and reservation(text)
end

local function text_of(r)
  local text = string.format('%s\n%d\n%d\n%.0f\n', r.state, r.amount, r.charged, r.excess)
  return text .. table.concat({ r.books, r.arm, r.campaign, r.channel, r.request, unpack(r.events) }, '\n')
end
