-- Functions for the scripts that finish reservations: `settle`, `cancel` and `expire`.

local function past(campaign, account, start) -- returns an account's ended period; nil if it has expired
  local key = string.format('%spast:%d:%s', prefix, math.floor(start / 86400), campaign)
  local name = start .. ':' .. account
  local text = redis.call('HGET', key, name)
  if not text then return nil end
  local cap, spent, reserved = string.match(text, '^(%S+) (%S+) (%S+)$')
  return { key = key, excess = 'excess:' .. name, name = name, cap = tonumber(cap), spent = tonumber(spent),
    reserved = tonumber(reserved) }
end

-- Returns the account periods that a reservation reduces, the fields that contain current ones, and the number of the
--         last change.
local function accounts_of(r)
  local names, starts, asked, found, fields = fields_of(r.arm, r.channel), {}, { [ANY] = {} }, {}, {}
  for letter, start in string.gmatch(r.books, '(%a)(-?%d*)') do starts[string.byte(letter)] = start == '' and '0' or start end
  local function take(campaign, texts, before)
    for i, name in ipairs(names) do
      local field
      for period in pairs(PERIODS) do
        local start = starts[letter_of(campaign, i, period)]
        if start then
          field = field or read(campaign, name, texts[before + i])
          local account
          for _, a in ipairs(field) do
            if a.period == period and a.start == start then account = a end
          end
          if account then
            account.key = campaign == ANY and KEYS[1] or prefix .. 'accounts:' .. campaign
            account.excess = 'excess:' .. name .. ',' .. period
            field.touched = true
          end
          found[#found + 1] = account or past(campaign, name .. ',' .. period, start)
        end
      end
      if field and field.touched then fields[#fields + 1] = field end
    end
  end
  local general = redis.call('HMGET', KEYS[1], 'generation', 'changes', unpack(names))
  check(general[1])
  take(ANY, general, 2)
  if string.find(r.books, '%l') then
    take(r.campaign, redis.call('HMGET', prefix .. 'accounts:' .. r.campaign, unpack(names)), 0)
  end
  return found, fields, tonumber(general[2])
end

local function keep(accounts, fields, changes) -- writes the changed accounts, of ended and of current periods
  for _, a in ipairs(accounts) do
    if a.name then redis.call('HSET', a.key, a.name, string.format('%d %d %d', a.cap, a.spent, a.reserved)) end
  end
  save(fields, changes)
end

-- Sets the state of a finished reservation. The reservation and its request expire after `seconds`.
local function finish(id, r, state, seconds)
  local before = r.state
  r.state = state
  redis.call('SET', prefix .. 'r:' .. id, text_of(r), 'EX', seconds)
  if before == 'o' then redis.call('ZREM', KEYS[3], id) end
  local request = r.request ~= '' and prefix .. 'q:' .. r.request
  if request and (before == 'o' or redis.call('GET', request) == id) then redis.call('EXPIRE', request, seconds) end
end

local function release(id, r, state, seconds) -- finishes an open reservation without charging anything
  local accounts, fields, changes = accounts_of(r)
  for _, a in ipairs(accounts) do a.reserved = a.reserved - r.amount end
  keep(accounts, fields, changes)
  finish(id, r, state, seconds)
end
