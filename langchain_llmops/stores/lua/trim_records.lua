-- Forget the oldest records of one name; a name without records is forgotten too.
-- KEYS[1]  its stream
-- KEYS[2]  the shard's sorted set of names that have records, each with the number of its oldest
-- ARGV[1]  the number after the last one to forget
-- ARGV[2]  the name
-- returns  nothing
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1] .. '-0')
local left = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if left[1] then
  redis.call('ZADD', KEYS[2], 'XX', string.match(left[1][1], '^%d+'), ARGV[2])
else
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[2])
end
return false
