-- Change one hash, all of it or nothing; for a Cluster, where one command goes to the node of its key.
-- KEYS[1]  the hash
-- ARGV[1]  '1' to forget what it held before, '0' to change it
-- ARGV[2]  time to live in milliseconds from now, 0 to leave what it has
-- ARGV[3]  how many fields follow that are set, each with its value; the rest are fields that go
-- returns  nothing
if ARGV[1] == '1' then
  redis.call('DEL', KEYS[1])
end
local set = tonumber(ARGV[3])
for i = 4, 3 + 2 * set, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
for i = 4 + 2 * set, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
if ARGV[2] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return false
