-- Append records, each under a number that no other record of the shard ever has; one after the other, and nothing between.
-- KEYS[1]   the shard's counter
-- KEYS[2]   the shard's sorted set of names that have records, each with the number of its oldest
-- KEYS[3…]  for each record its stream, then for each the last number of its name; several records may have the same
-- ARGV[1]   milliseconds for which a last number is remembered
-- ARGV[2]   milliseconds after which the records of a name expire, or 0; those that do are in no set
-- ARGV[3…]  the name of each record, then as many records
-- returns   their numbers, in order, then for each the number that was its name's last before it, or 0
local count = (#KEYS - 2) / 2
local answer = {}
for i = 1, count do
  local number = redis.call('INCR', KEYS[1])
  local stream, last = KEYS[2 + i], KEYS[2 + count + i]
  answer[count + i] = tonumber(redis.call('GET', last) or '0')
  redis.call('XADD', stream, string.format('%.0f-0', number), 'r', ARGV[2 + count + i])
  redis.call('SET', last, string.format('%.0f', number), 'PX', ARGV[1])
  if ARGV[2] == '0' then
    redis.call('ZADD', KEYS[2], 'NX', number, ARGV[2 + i])
  else
    redis.call('PEXPIRE', stream, ARGV[2])
  end
  answer[i] = number
end
return answer
