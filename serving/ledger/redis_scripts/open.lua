-- Returns  the ids of open reservations

return redis.call('ZRANGE', KEYS[5], 0, -1)
