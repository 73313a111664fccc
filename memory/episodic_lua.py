"""What Redis does with a conversation's stream: one script for each act, so that each is one call and nothing between.

They use what Redis 7 and Valkey 9 have alike. Fields of an entry: `previous`, `tokens`, `total` (of it and all before
it since the stream was made), `born` (seconds, when the stream was made), `body`, `belongs`, `summary`.
"""

_FIELD = """
local function field(entry, name)
  for i = 1, #entry[2], 2 do if entry[2][i] == name then return entry[2][i + 1] end end
end
local function number(entry, name) return tonumber(field(entry, name) or 0) or 0 end
local function seq(entry) return tonumber(string.match(entry[1], '^%d+')) end
"""

# Gives {stored, the newest seq before this call}. What does not follow the newest entry is not stored, so that a
# torn stream never looks whole; what is there already is stored once. The time to live is set here, because an
# append to an expired key would make one without. ARGV: seq, previous, tokens, body, belongs, most tokens, ttl, life.
APPEND = (
    _FIELD
    + """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local now = tonumber(redis.call('TIME')[1])
local last, total, born = 0, 0, now
if newest then
  last, total, born = seq(newest), number(newest, 'total'), number(newest, 'born')
  if born == 0 then born = now end
end
local own, previous, tokens = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if own <= last then return {2, last} end
if previous ~= last then return {0, last} end
total = total + tokens
redis.call('XADD', KEYS[1], ARGV[1] .. '-0', 'previous', ARGV[2], 'tokens', ARGV[3], 'total', total, 'born', born,
  'belongs', ARGV[5], 'body', ARGV[4])
-- Whole groups go, and never the newest one. `keep` is the first that stays, mostly the second. Entries are read a few
-- at a time, because their bodies come along: to read all of a full stream takes longer than all the rest.
local most, keep, step, after = tonumber(ARGV[6]), nil, 2, '-'
repeat
  local some = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', step)
  for _, entry in ipairs(some) do
    if field(entry, 'belongs') ~= '1' or not keep then
      keep = entry[1]
      if total - number(entry, 'total') + number(entry, 'tokens') <= most then some = {} break end
    end
    after = '(' .. entry[1]
  end
  step = 16
until #some == 0
redis.call('XTRIM', KEYS[1], 'MINID', keep)
redis.call('EXPIRE', KEYS[1], math.max(1, math.min(tonumber(ARGV[7]), born + tonumber(ARGV[8]) - now)))
return {1, last}
"""
)

# Gives the newest entries that fit, newest first. ARGV: most tokens.
WINDOW = (
    _FIELD
    + """
local most, total, fits, group, before = tonumber(ARGV[1]), 0, {}, {}, '+'
while true do
  local some = redis.call('XREVRANGE', KEYS[1], before, '-', 'COUNT', 32)
  for _, entry in ipairs(some) do
    total = total + number(entry, 'tokens')
    if total > most and #fits > 0 then return fits end
    group[#group + 1] = entry
    if field(entry, 'belongs') ~= '1' then
      for _, one in ipairs(group) do fits[#fits + 1] = one end
      group = {}
    end
    before = '(' .. entry[1]
  end
  if #some < 32 then
    for _, one in ipairs(group) do fits[#fits + 1] = one end
    return fits
  end
end
"""
)

# Gives 1, 0 when the prefix is not what it was, -1 when it ends between a call and its result. The summary takes the
# number of the last entry that it stands for, so that the next one still names it. A stream only grows at its end:
# what stays is written again behind the summary. ARGV: count, first seq, last seq, previous, tokens, body.
COMPACT = (
    _FIELD
    + """
local count = tonumber(ARGV[1])
local entries = redis.call('XRANGE', KEYS[1], '-', '+')
if #entries < count then return 0 end
if seq(entries[1]) ~= tonumber(ARGV[2]) or seq(entries[count]) ~= tonumber(ARGV[3]) then return 0 end
local behind = entries[count + 1]
if behind and field(behind, 'belongs') == '1' then return -1 end
local life, born, total = redis.call('PTTL', KEYS[1]), number(entries[1], 'born'), tonumber(ARGV[5])
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[1], ARGV[3] .. '-0', 'previous', ARGV[4], 'tokens', ARGV[5], 'total', total, 'born', born,
  'belongs', 0, 'body', ARGV[6], 'summary', 1)
for i = count + 1, #entries do
  total = total + number(entries[i], 'tokens')
  redis.call('XADD', KEYS[1], entries[i][1], 'previous', field(entries[i], 'previous'), 'tokens',
    field(entries[i], 'tokens'), 'total', total, 'born', born, 'belongs', field(entries[i], 'belongs') or 0,
    'body', field(entries[i], 'body'), 'summary', field(entries[i], 'summary') or 0)
end
if life > 0 then redis.call('PEXPIRE', KEYS[1], life) end
return 1
"""
)

# ARGV: ttl, then for each entry: seq, previous, tokens, body, belongs, summary.
REBUILD = """
redis.call('DEL', KEYS[1])
local now, total = redis.call('TIME')[1], 0
for i = 2, #ARGV, 6 do
  total = total + tonumber(ARGV[i + 2])
  redis.call('XADD', KEYS[1], ARGV[i] .. '-0', 'previous', ARGV[i + 1], 'tokens', ARGV[i + 2], 'total', total,
    'born', now, 'belongs', ARGV[i + 4], 'body', ARGV[i + 3], 'summary', ARGV[i + 5])
end
if #ARGV > 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 1
"""
