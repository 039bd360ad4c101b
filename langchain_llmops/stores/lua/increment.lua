-- Add to a counter; its time to live starts when it is made.
-- KEYS[1]  the counter, a decimal text; absent counts as 0
-- ARGV[1]  how much to add, an integer
-- ARGV[2]  time to live in milliseconds, 0 for none
-- returns  the new value as decimal text: a number of Lua would lose digits above 2^53
local made = redis.call('EXISTS', KEYS[1]) == 0
redis.call('INCRBY', KEYS[1], ARGV[1])
if made and ARGV[2] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('GET', KEYS[1])
