-- Functions for the scripts that begin periods: `define` and `begin`.

local SHORTEST = { total = 0, day = 23 * 3600, hour = 3600 } -- seconds; the same as in mtorl/policy/periods.py
local PAST = 8 * 86400 -- seconds until past:DAY expires, counted from the last write to it

-- Returns the beginning of the current period of an account: `next_start` if the previous period has ended and the two
--         periods begin far enough apart, otherwise `start`. The same as `period_after` in mtorl/policy/periods.py.
local function start_after(start, until_, next_start, period)
  return tonumber(until_) <= present() and next_start - start >= SHORTEST[period] and next_start or start
end

-- Moves an account to the period that begins at `start`. If it is already in that period, only the end of the period is
-- set.
local function turn(a, start, until_, cap)
  if start ~= a.start then
    local campaign, account = a.field.campaign, a.field.name .. ',' .. a.period
    local function past(of) return string.format('%spast:%d:%s', prefix, math.floor(of / 86400), campaign) end
    local key = campaign == ANY and KEYS[1] or prefix .. 'accounts:' .. campaign
    local excess, before, after = 'excess:' .. account, a.start .. ':' .. account, start .. ':' .. account
    if a.drawn == '1' then
      redis.call('HSET', past(a.start), before, string.format('%d %d %d', a.cap, a.spent, a.reserved), 'excess:' .. before,
        redis.call('HGET', key, excess) or '0')
      redis.call('EXPIRE', past(a.start), PAST)
      redis.call('HDEL', key, excess)
    end
    a.cap, a.spent, a.reserved, a.drawn = tonumber(cap), 0, 0, '0'
    -- If the account was in this period before, continue with its amounts, so that no limit is granted twice.
    local again = redis.call('HGET', past(start), after)
    if again then
      a.cap, a.spent, a.reserved = string.match(again, '^(%S+) (%S+) (%S+)$')
      a.cap, a.spent, a.reserved, a.drawn = tonumber(a.cap), tonumber(a.spent), tonumber(a.reserved), '1'
      redis.call('HSET', key, excess, redis.call('HGET', past(start), 'excess:' .. after))
      redis.call('HDEL', past(start), after, 'excess:' .. after)
    end
  end
  a.start, a.until_ = start, until_
end
