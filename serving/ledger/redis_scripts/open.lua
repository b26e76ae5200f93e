-- Returns  the ids of open reservations

check(redis.call('HGET', KEYS[1], 'generation'))
return redis.call('ZRANGE', KEYS[3], 0, -1)
