-- What all scripts of the ledger begin with.
-- KEYS  1 hash: accounts of the campaign "*", and for all campaigns "generation", a text that `define` wrote once, and
--       "changes", the number of the last change; 2 sorted set: campaigns by the number of their last change; 3 sorted
--       set: open reservations by time of creation; 4, ... the script's own
-- ARGV  1 the generation that the caller has seen; 2 the time, or '' for this server's; 3 what all keys begin with;
--       4, ... the script's own
--
-- On a cluster this is one group of keys (`redis_ledger.py`). accounts:"*" of the bank has "made", too: all groups have their
-- generation. That of another group has slices, and "epoch:ACCOUNT": how often a slice was taken back.
--
-- Keys, after what all begin with. Names, requests and events are JSON texts; an ACCOUNT is "ARM,CHANNEL,PERIOD".
--   accounts:CAMPAIGN  hash: "ARM,CHANNEL" -> "PERIOD IN_FORCE DRAWN START UNTIL CAP SPENT RESERVED;" for each account, in
--                      its present period. IN_FORCE, and DRAWN (on, by a reservation): 1 or 0. "excess:ACCOUNT"
--   terms:CAMPAIGN     hash: account in force -> "CAP ZONE PARTS": cap of a period that begins, and how its budget is divided
--   past:DAY:CAMPAIGN  hash: "START:ACCOUNT" -> "CAP SPENT RESERVED" of a period that is over, and began on that day since
--                      1970; "excess:START:ACCOUNT". Kept for a while
--   r:ID               reservation: lines of state (open, settled, late, cancelled, expired: their first letters), amount,
--                      charged, excess, books, arm, campaign, channel, request, and the event of each cost
--   q:REQUEST          id of the last reservation for a request
--   slices:GROUP       of the bank (`lease.lua`)
--
-- The books of a reservation are the periods of accounts that it draws on: a letter for each (`letter_of`), and START,
-- unless it is 0. START of an account never falls. Scripts know no calendar: if a period is over, they answer so, and the
-- caller begins the next one (`begin`). Amounts are whole nano-units, of which a double holds 2^53: no limit and no
-- reservation is above 9e15; excess is added in 64 bits.

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

local function fields_of(arm, channel) -- that match, in each of two campaigns
  local found = { arm .. ',' .. channel }
  if channel ~= ANY then found[2] = arm .. ',' .. ANY end
  if arm ~= ANY then
    found[#found + 1] = ANY .. ',' .. channel
    if channel ~= ANY then found[#found + 1] = ANY .. ',' .. ANY end
  end
  return found
end

local function letter_of(campaign, i, period) -- of an account in field i of those that match; A to L, or a to l
  return (campaign == ANY and 61 or 93) + 3 * i + PERIODS[period]
end

local function read(campaign, name, text) -- the accounts of a field
  local field = { campaign = campaign, name = name }
  for period, in_force, drawn, start, until_, cap, spent, reserved in
    string.gmatch(text or '', '(%S+) (%d) (%d) (%S+) (%S+) (%S+) (%S+) (%S+);')
  do
    field[#field + 1] = { period = period, in_force = in_force, drawn = drawn, start = start, until_ = until_,
      cap = tonumber(cap), spent = tonumber(spent), reserved = tonumber(reserved), field = field }
  end
  return field
end

local function save(fields, changes) -- after the change with that number
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
