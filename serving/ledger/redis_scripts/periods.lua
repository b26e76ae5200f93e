-- What scripts that begin periods have in common.

local SHORTEST = { total = 0, day = 23 * 3600, hour = 3600 } -- as in mtorl/policy/periods.py
local PAST = 8 * 86400 -- seconds for which a period that is over is kept, after the last of its day

local function start_after(start, until_, next_start, period) -- `period_after`, there: when the period in force began
  return tonumber(until_) <= present() and next_start - start >= SHORTEST[period] and next_start or start
end

local function turn(a, start, until_, cap) -- to the period that begins then; the present one goes on if it began then
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
    local again = redis.call('HGET', past(start), after) -- no limit is granted twice
    if again then
      a.cap, a.spent, a.reserved = string.match(again, '^(%S+) (%S+) (%S+)$')
      a.cap, a.spent, a.reserved, a.drawn = tonumber(a.cap), tonumber(a.spent), tonumber(a.reserved), '1'
      redis.call('HSET', key, excess, redis.call('HGET', past(start), 'excess:' .. after))
      redis.call('HDEL', past(start), after, 'excess:' .. after)
    end
  end
  a.start, a.until_ = start, until_
end
