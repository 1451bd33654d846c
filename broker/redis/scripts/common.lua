-- The head of a topic is a string: the last offset, the size of all payloads that the topic
-- ever had, the time at which the oldest record may have to go, the size of the payloads
-- removed by then, the age in milliseconds, the server, and the epoch.
-- A stream's entry has the ID offset-time, the payload (p) and the size of the payloads
-- before it (b).

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function text(number) return string.format('%.0f', number) end

local replid

-- server_id returns an ID that changes when the server starts and when it becomes a master.
local function server_id()
  if not replid then
    replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
    if not replid then error('the server does not tell its master_replid') end
    replid = string.sub(replid, 1, 16)
  end
  return replid
end

local function write_head(key, h)
  redis.call('SET', key, struct.pack('>I8I8I8I8I8ss', h.last, h.bytes, h.due, h.removed, h.age, h.id, h.epoch), 'PX', h.age)
end

-- read_head returns a topic's head, or that of a new history.
local function read_head(key, stream, epoch, age)
  local h, head = {}, redis.call('GET', key)
  if head then
    h.last, h.bytes, h.due, h.removed, h.age, h.id, h.epoch = struct.unpack('>I8I8I8I8I8ss', head)
    return h, true
  end
  redis.call('UNLINK', stream)
  return {last = now * 1024 - 1, bytes = 0, due = now + age, removed = 0, age = age, id = server_id(), epoch = epoch}, false
end

local function offset_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
local function time_of(entry) return tonumber(string.match(entry[1], '%d+$')) end

-- trim removes the oldest records that are too old, or more than bytes if that is not 0: at
-- most about 1,000.
local function trim(h, stream, bytes)
  local count, removed = 1, 0
  while removed < 1000 do
    local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', count)
    for i, e in ipairs(entries) do
      local before = tonumber(e[2][4])
      if time_of(e) > now - h.age and (bytes == 0 or h.bytes - before <= bytes) then
        if i > 1 then redis.call('XTRIM', stream, 'MINID', e[1]) end
        h.removed = before
        h.due = math.max(time_of(e) + h.age, now + h.age / 16) -- not at every append
        return
      end
    end
    if #entries == 0 then
      h.removed, h.due = h.bytes, now + h.age
      return
    end
    redis.call('XTRIM', stream, 'MINID', text(offset_of(entries[#entries]) + 1))
    removed, count = removed + #entries, math.min(count * 4, 16)
  end
  h.due = now
end
