-- Appends records to topics and publishes them. All keys are in one hash slot.
-- KEYS: for each topic its head and its stream, and the keys of its records that have one.
-- ARGV: the publish command, a random text, and for each topic: the channel, the bounds
--   (messages, bytes, age in milliseconds), the number of records, and for each record 1 if
--   it has a key or 0, and its payload.
-- Returns for each topic an error text, or an array: the epoch, the offset before the first
--   record appended, and the offset of each record, negative if its key was known.

local seed, k, a, topics = ARGV[2], 1, 3, 0

local function append(head_key, stream, channel, messages, bytes, age, count)
  local h = read_head(head_key, stream, seed .. topics, age)
  h.age = age
  local previous, first = h.last, 0
  local result, parts, appended = {h.epoch, previous}, {''}, 0
  for i = 1, count do
    local payload, known = ARGV[a + 1], false
    if appended == 0 and h.id ~= server_id() then
      first = math.max(h.last + 1048576, now * 1024)
    else
      first = h.last + 1
    end
    if ARGV[a] == '1' then
      local offset = text(first)
      known = redis.call('SET', KEYS[k], offset, 'NX', 'GET', 'PX', age)
      if known and #redis.call('XRANGE', stream, known, known, 'COUNT', 1) == 0 then
        redis.call('SET', KEYS[k], offset, 'PX', age) -- its record has been removed
        known = false
      end
      k = k + 1
    end
    a = a + 2
    if known then
      result[i + 2] = -tonumber(known)
    else
      local id = string.format('%.0f-%.0f', first, now)
      if messages > 0 then
        redis.call('XADD', stream, 'MAXLEN', messages, id, 'p', payload, 'b', text(h.bytes))
      else
        redis.call('XADD', stream, id, 'p', payload, 'b', text(h.bytes))
      end
      h.last, h.id, h.bytes = first, server_id(), h.bytes + #payload
      result[i + 2] = first
      appended = appended + 1
      parts[2 * appended], parts[2 * appended + 1] = struct.pack('>I4', #payload), payload
    end
  end
  if appended > 0 then
    if now >= h.due or bytes > 0 and h.bytes - h.removed > bytes then
      trim(h, stream, bytes)
    end
    write_head(head_key, h)
    redis.call('PEXPIRE', stream, age)
    parts[1] = struct.pack('>BBI8I8s', 254, 1, previous, h.last - appended + 1, h.epoch)
    redis.call(ARGV[1], channel, table.concat(parts))
  end
  return result
end

local results = {}
while a <= #ARGV do
  local count = tonumber(ARGV[a + 4])
  local next_k, next_a = k + 2, a + 5 + 2 * count
  for i = a + 5, next_a - 1, 2 do
    if ARGV[i] == '1' then next_k = next_k + 1 end
  end
  local channel, messages, bytes, age = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local head_key, stream = KEYS[k], KEYS[k + 1]
  topics, k, a = topics + 1, k + 2, a + 5
  local ok, result = pcall(append, head_key, stream, channel, messages, bytes, age, count)
  if not ok then result = type(result) == 'table' and result.err or tostring(result) end
  results[topics] = result
  k, a = next_k, next_a
end
return results
