-- Takes, renews or gives back the lease of the router that paces.
-- KEYS     1 the lease: "NUMBER RENEWED HOLDER"; 2 hash of the prices
-- ARGV     1 the owner, '' to give it back; 2 the lease as the caller has seen it silent, or ''
-- Returns  the lease as it is now; the version of the prices

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
