-- From the first form, in which each account bound one arm: what the arms have spent is what the experiment has. The old
-- generation goes, so that routers of the version before refuse to spend from it.
-- KEYS  1 the generation; 2 hash: account -> cap; 3 accounts in force; 4 hash of books; 5 prefix of the keys of reservations
-- ARGV  1 the old generation; 2 the new one; 3, 4, ... in turn: account; the account of all arms beside it
-- Returns  1 if it is done; 0 if there are other accounts, or another did it first

if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('HLEN', KEYS[2]) ~= (#ARGV - 2) / 2 then return 0 end
local all_arms = {}
for i = 3, #ARGV, 2 do all_arms[ARGV[i]] = ARGV[i + 1] end

local books = redis.call('HGETALL', KEYS[4])
for i = 1, #books, 2 do
  local what_and_start, account = string.match(books[i], '^(%a+:%-?%d+:)(.*)$')
  if all_arms[account] then
    redis.call('HINCRBY', KEYS[4], what_and_start .. all_arms[account], books[i + 1])
    local start = string.match(what_and_start, ':(.*):')
    for _, name in ipairs({ account, all_arms[account] }) do
      local latest = redis.call('HGET', KEYS[4], 'start:' .. name)
      if not latest or tonumber(latest) < tonumber(start) then redis.call('HSET', KEYS[4], 'start:' .. name, start) end
    end
  end
end

local cursor, moved = '0', {}
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', KEYS[5] .. '*', 'COUNT', 1000)
  cursor = page[1]
  for _, key in ipairs(page[2]) do
    local held = not moved[key] and redis.call('HGET', key, 'books')
    moved[key] = true
    if held then
      local more = {}
      for start, account in string.gmatch(held, '([^:\n]+:)([^\n]+)') do
        if all_arms[account] then more[start .. all_arms[account]] = true end
      end
      for book in pairs(more) do held = held .. '\n' .. book end
      redis.call('HSET', key, 'books', held)
    end
  end
until cursor == '0'
redis.call('DEL', KEYS[3]) -- they had no terms; the caller sets them anew
redis.call('SET', KEYS[1], ARGV[2])
return 1
