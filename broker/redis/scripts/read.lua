-- Reads records of a topic.
-- KEYS: the topic's head and stream.
-- ARGV: the offset to start behind, the maximum number of records, and for a new history a
--   random text and its age in milliseconds.
-- Returns the epoch, the last offset, the offset up to which records are removed, the
--   server's time in milliseconds, the offset before the first record or 0, and the records.

local stream = KEYS[2]
local h, found = read_head(KEYS[1], stream, ARGV[3], tonumber(ARGV[4]))
if not found then write_head(KEYS[1], h, tonumber(ARGV[4])) end
if h.messages > 0 then redis.call('XTRIM', stream, 'MAXLEN', h.messages) end
local first = trim(h, stream)
local removed = h.last
if h.size == 0 or first and first[2][4] == '0' then
  removed = 0 -- the topic has all its records
elseif first then
  removed = offset_of(first) - 1
end

local records, size, limit = {}, 0, tonumber(ARGV[2])
local from = text(tonumber(ARGV[1]) + 1)
while #records < limit and size < 1048576 do
  local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', math.min(limit - #records, 64))
  for _, e in ipairs(entries) do
    records[#records + 1] = {e[1], e[2][2]}
    size = size + #e[2][2]
  end
  if #entries == 0 then break end
  from = '(' .. entries[#entries][1]
end
local previous = 0
if records[1] and records[1][1] ~= first[1] then
  previous = offset_of(redis.call('XREVRANGE', stream, '(' .. records[1][1], '-', 'COUNT', 1)[1])
end
return {h.epoch, h.last, removed, now, previous, records}
