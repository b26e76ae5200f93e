-- Acquires, renews or releases the lease that allows one router to compute the prices of all accounts.
-- KEYS     1  The lease: "NUMBER RENEWED HOLDER". NUMBER counts the changes of the holder, RENEWED the renewals by this
--             holder
--          2  Hash of the prices
-- ARGV     1  Name of the router; '' to release the lease
--          2  The lease as the caller last read it, to release it, or to take it over from a holder that no longer
--             renews it; else ''
-- Returns  The lease after this call, and the version of the prices

local version = redis.call('HGET', KEYS[2], 'version') or '0'
local held = redis.call('GET', KEYS[1]) or '0 0 '
local number, renewed, holder = string.match(held, '^(%d+) (%d+) (.*)$')
if holder == ARGV[1] then
  renewed = renewed + 1
elseif holder == '' or held == ARGV[2] then
  number, renewed, holder = number + 1, 0, ARGV[1]
else
  return { held, version }
end
held = string.format('%.0f %.0f %s', number, renewed, holder)
redis.call('SET', KEYS[1], held)
return { held, version }
