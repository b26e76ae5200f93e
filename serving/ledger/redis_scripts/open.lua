-- Returns the ids of all open reservations, oldest first.

check(redis.call('HGET', KEYS[1], 'generation'))
return redis.call('ZRANGE', KEYS[3], 0, -1)
