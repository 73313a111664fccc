"""Episodic memory: the recent messages of a conversation, one Redis stream each.

The journal in Postgres is the truth. A stream is written after the commit, and says by itself when something is
missing: each entry names the one before it. A stream that is missing or torn is rebuilt from the journal.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, cast

import redis
from pydantic import JsonValue
from redis.exceptions import NoScriptError

from chargehand.memory.episodic_lua import APPEND, COMPACT, REBUILD, WINDOW
from chargehand.memory.keyspace import CONVERSATION_LIFE_SECONDS, CONVERSATION_TTL_SECONDS, Keyspace


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
    belongs_to_previous: bool = False
    """As a tool's result does to its call: neither is ever held, shown or summarised without the other."""
    is_summary: bool = False
    """It stands for this message and all before it."""


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

    @property
    def tokens(self) -> int:
        """What they take of a window."""
        return sum(entry.tokens for entry in self.entries)


class PrefixChanged(RuntimeError):
    """What was to be replaced by a summary is not what was summarised any more; read it again."""


def append(
    client: redis.Redis,
    keyspace: Keyspace,
    conversation: str,
    entry: Entry,
    *,
    max_tokens: int,
    ttl_seconds: int = CONVERSATION_TTL_SECONDS,
    life_seconds: int = CONVERSATION_LIFE_SECONDS,
) -> Appended:
    """Add one entry in one call, drop the oldest beyond `max_tokens` and refresh the time to live.

    An entry that does not follow the newest is refused and shows the gap; the same entry twice is stored once.
    The newest entry stays, however long it is, with what it belongs to. A stream lives at most `life_seconds` from its
    first entry, however often it is continued: what was erased from the journal does not live on in Redis.
    """
    require_order(entry)
    state, newest = cast(
        "list[Any]",
        _call(
            client,
            APPEND,
            keyspace.conversation(conversation),
            [
                entry.seq,
                entry.previous_seq,
                entry.tokens,
                json.dumps(entry.body),
                int(entry.belongs_to_previous),
                max_tokens,
                ttl_seconds,
                life_seconds,
            ],
        ),
    )
    return Appended(stored=int(state) > 0, newest_seq=int(newest))


def read(client: redis.Redis, keyspace: Keyspace, conversation: str, *, newest_seq: int) -> Conversation:
    """The conversation as far as Redis holds it; `newest_seq` is the newest message that the journal knows (0: none).

    That old entries were trimmed leaves it whole; a missing stream, a hole or a late end does not. More than the
    journal was seen to hold (somebody committed meanwhile) is whole too.
    """
    rows = cast("list[tuple[str, dict[str, str]]]", client.xrange(keyspace.conversation(conversation)))
    return _conversation([(identity, fields) for identity, fields in rows], newest_seq)


def window(
    client: redis.Redis, keyspace: Keyspace, conversation: str, *, newest_seq: int, max_tokens: int
) -> Conversation:
    """The newest entries that fit into `max_tokens`, in one call; at least the newest, with what it belongs to."""
    rows = cast(
        "list[tuple[str, list[str]]]",
        _call(client, WINDOW, keyspace.conversation(conversation), [max_tokens]),
    )
    return _conversation(
        [(identity, dict(zip(fields[::2], fields[1::2], strict=True))) for identity, fields in reversed(rows)],
        newest_seq,
    )


def compact(
    client: redis.Redis,
    keyspace: Keyspace,
    conversation: str,
    *,
    prefix: Sequence[Entry],
    summary: JsonValue,
    tokens: int,
) -> None:
    """Replace the oldest entries, as they were read, by a summary of `tokens`; all in one call.

    Raises `PrefixChanged` when they are not the oldest any more, or one of them is gone: somebody has trimmed,
    compacted or rebuilt the stream meanwhile. What was appended meanwhile stays. Raises `ValueError` when the entry
    behind them belongs to the last of them.
    """
    if not prefix:
        raise ValueError("There is nothing to summarise; give the oldest entries.")
    places = [len(prefix), prefix[0].seq, prefix[-1].seq, prefix[0].previous_seq]
    arguments: list[str | int] = [*places, tokens, json.dumps(summary)]
    state = _call(client, COMPACT, keyspace.conversation(conversation), arguments)
    if state == 0:
        raise PrefixChanged(f"Conversation {conversation!r} does not begin with what was summarised; read it again.")
    if state == -1:
        raise ValueError(f"Entry {prefix[-1].seq} and the one behind it belong together; summarise both or neither.")


def rebuild(
    client: redis.Redis,
    keyspace: Keyspace,
    conversation: str,
    entries: Iterable[Entry],
    *,
    max_tokens: int,
    ttl_seconds: int = CONVERSATION_TTL_SECONDS,
    life_seconds: int = CONVERSATION_LIFE_SECONDS,
) -> None:
    """Replace the stream by these entries of the journal, oldest first, in one call; its life begins anew.

    What somebody appended between the reading of the journal and this is lost from the stream, and shows as a gap.
    """
    chain = tuple(entries)
    for entry in chain:
        require_order(entry)
    for earlier, later in pairwise(chain):
        if later.previous_seq != earlier.seq:
            raise ValueError(f"Entry {later.seq} names {later.previous_seq} as the one before, but {earlier.seq} is.")
    arguments: list[str | int] = [min(ttl_seconds, life_seconds)]
    for entry in newest_within(chain, max_tokens=max_tokens):
        arguments += [entry.seq, entry.previous_seq, entry.tokens, json.dumps(entry.body)]
        arguments += [int(entry.belongs_to_previous), int(entry.is_summary)]
    _call(client, REBUILD, keyspace.conversation(conversation), arguments)


def end(client: redis.Redis, keyspace: Keyspace, conversation: str) -> None:
    """Remove the conversation; it is rebuilt from the journal, without what was erased there, when somebody asks."""
    client.delete(keyspace.conversation(conversation))


def newest_within(entries: Sequence[Entry], *, max_tokens: int) -> tuple[Entry, ...]:
    """The newest entries that fit into `max_tokens`, at least one, and none without what it belongs to."""
    total, first = 0, len(entries)
    for position in range(len(entries) - 1, -1, -1):
        total += entries[position].tokens
        if total > max_tokens and first < len(entries):
            break
        if not entries[position].belongs_to_previous or position == 0:
            first = position
    return tuple(entries[first:])


def require_order(entry: Entry) -> None:
    """Refuse an entry that cannot follow the one it names."""
    if not 0 <= entry.previous_seq < entry.seq:
        raise ValueError(f"Entry {entry.seq} names {entry.previous_seq} as the one before it; give a smaller number.")


def _conversation(rows: Sequence[tuple[str, dict[str, str]]], newest_seq: int) -> Conversation:
    try:
        entries = tuple(
            Entry(
                seq=int(identity.partition("-")[0]),
                previous_seq=int(fields["previous"]),
                tokens=int(fields["tokens"]),
                body=json.loads(fields["body"]),
                belongs_to_previous=fields.get("belongs") == "1",
                is_summary=fields.get("summary") == "1",
            )
            for identity, fields in rows
        )
    except (KeyError, ValueError):
        # Not written by us, or cut: the journal has it all.
        return Conversation(entries=(), whole=False)
    linked = all(later.previous_seq == earlier.seq for earlier, later in pairwise(entries))
    return Conversation(entries=entries, whole=linked and (entries[-1].seq if entries else 0) >= newest_seq)


def _call(client: redis.Redis, script: str, key: str, arguments: Sequence[str | int]) -> object:
    """Run a script by its hash; a server that does not have it, or has lost it, is sent the text."""
    try:
        return client.evalsha(_hash(script), 1, key, *arguments)
    except NoScriptError:
        return client.eval(script, 1, key, *arguments)


@cache
def _hash(script: str) -> str:
    # The name that Redis gives it; nothing rests on it.
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
