-- Appends records to topics and publishes them. All keys are in one hash slot.
-- KEYS: for each topic its head and its stream, and the keys of its records that have one.
-- ARGV: the publish command, a random text, and for each topic: the channel, the bounds
--   (messages, bytes, age in milliseconds), the number of records, and for each record 1 if
--   it has a key or 0, and its payload.
-- Returns for each topic "-", an error text and a zero byte, or "+", the epoch, a zero byte,
--   and in 8 bytes each the offset before the first record appended, and the offset of each
--   record, negative if its key was known.

local topics, k, a = 0, 1, 3 -- topics begun, and the next of KEYS and of ARGV
local suffix = '-' .. text(now)

-- add adds an entry to a stream. It returns its ID, or a table with an error.
local function add(h, stream, offset, messages, payload)
  local id, before = offset .. suffix, text(h.size)
  if messages == '0' then
    return redis.pcall('XADD', stream, 'NOMKSTREAM', id, 'p', payload, 'b', before)
  end
  -- This removes whole nodes, of about 4 KB. Reading removes the rest.
  return redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', messages, id, 'p', payload, 'b', before)
end

local function append(head_key, stream, channel, messages, bytes, age, count)
  local h = read_head(head_key, stream, ARGV[2] .. topics, tonumber(age))
  local previous, result, parts = h.last, {struct.pack('>BsI8', 43, h.epoch, h.last)}, {}
  local first, failed -- the first offset appended, and an error
  for i = 1, count do
    local payload, known = ARGV[a + 1], false
    local offset = h.last + 1
    if not first and h.server ~= server_id() then
      offset = math.max(h.last + 1048576, now * 1024)
    end
    local name = text(offset)
    if ARGV[a] == '1' then
      known = redis.call('SET', KEYS[k], name, 'NX', 'GET', 'PX', age)
      if known and #redis.call('XRANGE', stream, known, known, 'COUNT', 1) == 0 then
        redis.call('SET', KEYS[k], name, 'PX', age) -- its record has been removed
        known = false
      end
      k = k + 1
    end
    a = a + 2
    if known then
      result[i + 1] = struct.pack('>i8', -tonumber(known))
    else
      local added = add(h, stream, name, messages, payload)
      if not added then -- there is no stream: it is the first record, or the key was evicted
        added = redis.pcall('XADD', stream, name .. suffix, 'p', payload, 'b', text(h.size))
        h.due = 0
      end
      if type(added) == 'table' then -- an error; the head must have the records before it
        failed = added.err
        break
      end
      result[i + 1] = struct.pack('>i8', offset)
      h.last, h.server, h.size = offset, server_id(), h.size + #payload
      if first then
        parts[#parts + 1] = struct.pack('>I4', #payload)
      else
        first = offset
        parts[1] = struct.pack('>BBI8I8sI4', 254, 1, previous, first, h.epoch, #payload)
      end
      parts[#parts + 1] = payload
    end
  end
  if first then
    local old, renewed = h.age, false
    h.messages, h.bytes, h.age = tonumber(messages), tonumber(bytes), tonumber(age)
    if now >= h.due or old ~= h.age then
      -- Neither key may expire before the next time.
      trim(h, stream)
      redis.call('PEXPIRE', stream, text(h.age * 9 / 8 + 1))
      h.due, renewed = now + h.age / 16, true
    elseif h.bytes > 0 and h.size - h.removed > h.bytes * 17 / 16 then
      trim(h, stream)
    end
    write_head(head_key, h, renewed and math.floor(h.age * 9 / 8) + 1)
    redis.call(ARGV[1], channel, table.concat(parts))
  end
  if failed then error({err = failed}) end
  return table.concat(result)
end

local results = {}
while a <= #ARGV do
  local count = tonumber(ARGV[a + 4])
  local next_k, next_a = k + 2, a + 5 + 2 * count
  for i = a + 5, next_a - 1, 2 do
    if ARGV[i] == '1' then next_k = next_k + 1 end
  end
  local head_key, stream, at = KEYS[k], KEYS[k + 1], a
  topics, k, a = topics + 1, k + 2, a + 5
  local ok, result = pcall(append, head_key, stream, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], count)
  if not ok then
    result = struct.pack('>Bs', 45, type(result) == 'table' and result.err or tostring(result))
  end
  results[topics] = result
  k, a = next_k, next_a
end
return table.concat(results)
