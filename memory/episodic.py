"""Episodic memory: the recent messages of a conversation, one Redis stream each.

The journal in Postgres is the truth. A stream is written after the commit, and says by itself when something is
missing: each entry names the one before it. A stream that is missing or torn is rebuilt from the journal.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import redis
from pydantic import JsonValue

from chargehand.memory.keyspace import CONVERSATION_TTL_SECONDS, Keyspace

# Gives {stored, the newest seq before this call}. What does not follow the newest entry is not stored, so that a
# torn stream never looks whole; what is there already is stored once. The time to live is set here, because an
# append to an expired key would make one without. ARGV: seq, previous, tokens, body, most tokens, ttl.
APPEND = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last, total = 0, 0
if newest then
  last = tonumber(string.match(newest[1], '^%d+'))
  for i = 1, #newest[2], 2 do if newest[2][i] == 'total' then total = tonumber(newest[2][i + 1]) end end
end
local seq, previous, tokens = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if seq <= last then return {2, last} end
if previous ~= last then return {0, last} end
total = total + tokens
redis.call('XADD', KEYS[1], seq .. '-0', 'previous', ARGV[2], 'tokens', ARGV[3], 'total', total, 'body', ARGV[4])
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2)
while #oldest == 2 do
  local before, own = 0, 0
  for i = 1, #oldest[1][2], 2 do
    if oldest[1][2][i] == 'total' then before = tonumber(oldest[1][2][i + 1]) end
    if oldest[1][2][i] == 'tokens' then own = tonumber(oldest[1][2][i + 1]) end
  end
  if total - before + own <= tonumber(ARGV[5]) then break end
  redis.call('XDEL', KEYS[1], oldest[1][1])
  oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2)
end
redis.call('EXPIRE', KEYS[1], ARGV[6])
return {1, last}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One message of a conversation."""

    seq: int
    """Its number in the journal, from 1; grows, with gaps where the journal holds other facts."""
    previous_seq: int
    """The number of the message before it; 0 for the first."""
    tokens: int
    """Its size in the model's window."""
    body: JsonValue
    """The message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """What became of an append."""

    stored: bool
    """The entry is in the stream, from now or from before."""
    newest_seq: int
    """The newest entry before the call; 0 if the stream was empty. Unless stored: rebuild what follows it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """The messages that the stream still holds, oldest first."""

    entries: tuple[Entry, ...]
    whole: bool
    """Every entry follows the one before it, up to the newest of the journal. If not: `rebuild`."""


def append(
    client: redis.Redis,
    keyspace: Keyspace,
    conversation: str,
    entry: Entry,
    *,
    max_tokens: int,
    ttl_seconds: int = CONVERSATION_TTL_SECONDS,
) -> Appended:
    """Add one entry in one call, drop the oldest beyond `max_tokens` and refresh the time to live.

    An entry that does not follow the newest is refused and shows the gap; the same entry twice is stored once.
    The newest entry stays, however long it is.
    """
    require_order(entry)
    state, newest = cast(
        "list[Any]",
        client.eval(
            APPEND,
            1,
            keyspace.conversation(conversation),
            str(entry.seq),
            str(entry.previous_seq),
            str(entry.tokens),
            json.dumps(entry.body),
            str(max_tokens),
            str(ttl_seconds),
        ),
    )
    return Appended(stored=int(state) > 0, newest_seq=int(newest))


def read(client: redis.Redis, keyspace: Keyspace, conversation: str, *, newest_seq: int) -> Conversation:
    """The conversation as far as Redis holds it; `newest_seq` is the newest message that the journal knows (0: none).

    That old entries were trimmed leaves it whole; a missing stream, a hole or a late end does not. More than the
    journal was seen to hold (somebody committed meanwhile) is whole too.
    """
    rows = cast("list[tuple[str, dict[str, str]]]", client.xrange(keyspace.conversation(conversation)))
    try:
        entries = tuple(
            Entry(
                seq=int(identity.partition("-")[0]),
                previous_seq=int(fields["previous"]),
                tokens=int(fields["tokens"]),
                body=json.loads(fields["body"]),
            )
            for identity, fields in rows
        )
    except (KeyError, ValueError):
        # Not written by us, or cut: the journal has it all.
        return Conversation(entries=(), whole=False)
    linked = all(later.previous_seq == earlier.seq for earlier, later in pairwise(entries))
    return Conversation(entries=entries, whole=linked and (entries[-1].seq if entries else 0) >= newest_seq)


def rebuild(
    client: redis.Redis,
    keyspace: Keyspace,
    conversation: str,
    entries: Iterable[Entry],
    *,
    max_tokens: int,
    ttl_seconds: int = CONVERSATION_TTL_SECONDS,
) -> None:
    """Replace the stream by these entries of the journal, oldest first, in one transaction.

    What somebody appended between the reading of the journal and this is lost from the stream, and shows as a gap.
    """
    chain = tuple(entries)
    for entry in chain:
        require_order(entry)
    for earlier, later in pairwise(chain):
        if later.previous_seq != earlier.seq:
            raise ValueError(f"Entry {later.seq} names {later.previous_seq} as the one before, but {earlier.seq} is.")
    kept = newest_within(chain, max_tokens=max_tokens)
    key = keyspace.conversation(conversation)
    total = 0
    with client.pipeline(transaction=True) as pipeline:
        pipeline.delete(key)
        for entry in kept:
            total += entry.tokens
            fields = {
                "previous": entry.previous_seq,
                "tokens": entry.tokens,
                "total": total,
                "body": json.dumps(entry.body),
            }
            pipeline.xadd(key, cast("Any", fields), id=f"{entry.seq}-0")
        if kept:
            pipeline.expire(key, ttl_seconds)
        pipeline.execute()


def newest_within(entries: tuple[Entry, ...], *, max_tokens: int) -> tuple[Entry, ...]:
    """The newest entries that fit into `max_tokens`, at least one."""
    total = 0
    for position in range(len(entries) - 1, -1, -1):
        total += entries[position].tokens
        if total > max_tokens:
            return entries[min(position + 1, len(entries) - 1) :]
    return entries


def require_order(entry: Entry) -> None:
    """Refuse an entry that cannot follow the one it names."""
    if not 0 <= entry.previous_seq < entry.seq:
        raise ValueError(f"Entry {entry.seq} names {entry.previous_seq} as the one before it; give a smaller number.")
