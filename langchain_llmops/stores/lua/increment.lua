-- Add to a counter; its time to live starts when it is made.
-- KEYS[1]  the counter, a decimal text
-- ARGV[1]  how much to add, integer
-- ARGV[2]  time to live in milliseconds, 0 for none
-- returns  the new value, integer
local made = redis.call('EXISTS', KEYS[1]) == 0
local total = redis.call('INCRBY', KEYS[1], ARGV[1])
if made and tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return total
