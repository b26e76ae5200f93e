-- Replaces what the pacing controller remembers, unless somebody else has since.
-- ARGV  4 the version that the caller has seen; 5 the text
-- Returns  1 if it is replaced

local seen = redis.call('HGET', KEYS[4], 'memory:version') or '0'
if seen ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[4], 'memory:version', whole(seen + 1), 'memory:text', ARGV[5])
return 1
