-- Gives a topic another epoch.
-- KEYS: the topic's head. ARGV: its present epoch, and the new one. Returns nothing.

local head = redis.call('GET', KEYS[1])
if head then
  local h = {struct.unpack('>I8I8I8I8I8ss', head)}
  if h[7] == ARGV[1] then
    redis.call('SET', KEYS[1], struct.pack('>I8I8I8I8I8ss', h[1], h[2], h[3], h[4], h[5], h[6], ARGV[2]), 'KEEPTTL')
  end
end
return {}
