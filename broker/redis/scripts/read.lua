-- Reads records of a topic.
-- KEYS: the topic's head and stream.
-- ARGV: the offset to start behind, the maximum number of records, and for a new history a
--   random text and its age in milliseconds.
-- Returns the epoch, the last offset, the offset up to which records are removed, the
--   server's time in milliseconds, the offset before the first record or 0, and the records.

local h, found = read_head(KEYS[1], KEYS[2], ARGV[3], tonumber(ARGV[4]))
if not found then write_head(KEYS[1], h) end

local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if first and time_of(first) <= now - h.age then
  trim(h, KEYS[2], 0)
  first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
end
local removed = first and offset_of(first) - 1 or h.last

local records, size, after, limit = {}, 0, ARGV[1], tonumber(ARGV[2])
local from = text(tonumber(after) + 1)
while #records < limit and size < 1048576 do
  local entries = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', math.min(limit - #records, 64))
  for _, e in ipairs(entries) do
    records[#records + 1] = {e[1], e[2][2]}
    size = size + #e[2][2]
  end
  if #entries == 0 then break end
  from = '(' .. entries[#entries][1]
end
local previous = 0
if records[1] and records[1][1] ~= first[1] then
  previous = offset_of(redis.call('XREVRANGE', KEYS[2], '(' .. records[1][1], '-', 'COUNT', 1)[1])
end
return {h.epoch, h.last, removed, now, previous, records}
