-- A topic has a head, which is a string with these fields: the last offset; the size of all
-- payloads it ever had; the size of all payloads removed, or less; the time at which old
-- records are to be removed; its bounds (messages, bytes, age in milliseconds); the ID of
-- the server; and the epoch. A stream's entry has the ID offset-time, the payload (p), and
-- the size of all payloads before it (b).

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function text(number) return string.format('%d', number) end

local server

-- server_id returns an ID that changes when the server starts and when it becomes a master.
local function server_id()
  if not server then
    server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x)')
    if not server then error('the server does not tell its master_replid') end
  end
  return server
end

-- write_head writes a topic's head, which exists if there is no ttl.
local function write_head(key, h, ttl)
  local head = struct.pack('>I8I8I8I8I8I8I8ss',
    h.last, h.size, h.removed, h.due, h.messages, h.bytes, h.age, h.server, h.epoch)
  if ttl then
    redis.call('SET', key, head, 'PX', text(ttl))
  else
    redis.call('SET', key, head, 'KEEPTTL')
  end
end

-- read_head returns a topic's head, or that of a new history.
local function read_head(key, stream, epoch, age)
  local head = redis.call('GET', key)
  if head then
    local last, size, removed, due, messages, bytes, old, id, known = struct.unpack('>I8I8I8I8I8I8I8ss', head)
    return {
      last = last, size = size, removed = removed, due = due,
      messages = messages, bytes = bytes, age = old, server = id, epoch = known
    }, true
  end
  redis.call('UNLINK', stream)
  return {
    last = now * 1024 - 1, size = 0, removed = 0, due = 0,
    messages = 0, bytes = 0, age = age, server = server_id(), epoch = epoch
  }, false
end

local function offset_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
local function time_of(entry) return tonumber(string.match(entry[1], '%d+$')) end

-- trim removes the oldest records that are too old or exceed h.bytes, at most about 1,000 of
-- them. It returns the oldest one left, or nil.
local function trim(h, stream)
  local count, removed = 1, 0
  while removed < 1000 do
    local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', count)
    for i, e in ipairs(entries) do
      local before = tonumber(e[2][4])
      if time_of(e) > now - h.age and (h.bytes == 0 or h.size - before <= h.bytes) then
        if i > 1 then redis.call('XTRIM', stream, 'MINID', e[1]) end
        h.removed = before
        return e
      end
    end
    if #entries == 0 then
      h.removed = h.size
      return
    end
    redis.call('XTRIM', stream, 'MINID', text(offset_of(entries[#entries]) + 1))
    removed, count = removed + #entries, math.min(count * 4, 16)
  end
  return redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
end
