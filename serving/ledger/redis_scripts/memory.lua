-- Returns  the version and the text of what the pacing controller remembers

return redis.call('HMGET', KEYS[4], 'memory:version', 'memory:text')
