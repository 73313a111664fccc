"""What an agent remembers of its conversation: earlier runs as Redis holds them, or rebuilt from their journals.

The journal is the truth. A stream that is missing, torn or away costs a few reads of Postgres, and nothing else: what
an agent is shown depends on the journal alone.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from uuid import UUID

import redis
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from chargehand.memory import episodic
from chargehand.memory.keyspace import Keyspace
from chargehand.orchestrator.episodes import Continued, Episode, conversation_name, episodes

log = logging.getLogger(__name__)

# What an agent is shown of earlier runs; the same for all agents of a run, so that they share it in the prompt cache.
MOST_TOKENS = 6_000
# A stream holds somewhat more, for runs that continue an older state of the conversation.
MOST_TOKENS_KEPT = 4 * MOST_TOKENS
BYTES_PER_TOKEN = 4
_EPISODE: TypeAdapter[Episode] = TypeAdapter(Episode)


class Recollection:
    """The conversations of a worker process; threads may share it."""

    def __init__(self, client: "redis.Redis", keyspace: Keyspace) -> None:
        """Connects when it is first asked."""
        self._client, self._keyspace = client, keyspace

    def recall(
        self, open_session: Callable[[], AbstractContextManager[Session]], tenant: UUID, continued: Continued
    ) -> tuple[Episode, ...]:
        """The newest of these runs that fit into `MOST_TOKENS`, oldest first; at least one."""
        name = conversation_name(tenant, continued.conversation_id)
        held = self._held(name)
        found = newest([held[run] for run in continued.runs if run in held])
        if _is_all_that_fits(found, continued, held):
            return found
        missing = _newer_than_held(continued, held)
        if missing:
            with open_session() as session:
                newer = episodes(session, missing)
            self._append(name, newer, after=max(one.ended_at_microseconds for one in held.values()))
            held = {**held, **{one.run_id: one for one in newer}}
            found = newest([held[run] for run in continued.runs if run in held])
            if _is_all_that_fits(found, continued, held):
                return found
        with open_session() as session:
            told = episodes(session, continued.runs)
        if max((one.ended_at_microseconds for one in held.values()), default=0) <= told[-1].ended_at_microseconds:
            self._keep(name, told)
        return newest(told)

    def _held(self, name: str) -> Mapping[UUID, Episode]:
        try:
            stream = episodic.read(self._client, self._keyspace, name, newest_seq=0)
        except redis.RedisError as error:
            log.info("conversation not in Redis", extra={"why": str(error)})
            return {}
        if not stream.whole:
            return {}
        try:
            told = [_EPISODE.validate_python(entry.body) for entry in stream.entries]
        except ValidationError:
            # Of another version, or somebody else's.
            return {}
        return {one.run_id: one for one in told}

    def _append(self, name: str, newer: Sequence[Episode], *, after: int) -> None:
        """Add what has ended since; another worker may do the same, and whatever does not follow is left out."""
        try:
            for one in newer:
                entry = _entry(one, previous_seq=after)
                if entry is None:
                    return
                episodic.append(self._client, self._keyspace, name, entry, max_tokens=MOST_TOKENS_KEPT)
                after = entry.seq
        except redis.RedisError as error:
            log.info("conversation not kept in Redis", extra={"why": str(error)})

    def _keep(self, name: str, told: Sequence[Episode]) -> None:
        entries: list[episodic.Entry] = []
        for one in told:
            entry = _entry(one, previous_seq=entries[-1].seq if entries else 0)
            if entry is None:
                return
            entries.append(entry)
        try:
            episodic.rebuild(self._client, self._keyspace, name, entries, max_tokens=MOST_TOKENS_KEPT)
        except redis.RedisError as error:
            log.info("conversation not kept in Redis", extra={"why": str(error)})


def _entry(one: Episode, *, previous_seq: int) -> episodic.Entry | None:
    """None: two ended in the same microsecond, and this conversation is read from the journal."""
    if one.ended_at_microseconds <= previous_seq:
        return None
    body = _EPISODE.dump_python(one, mode="json")
    return episodic.Entry(seq=one.ended_at_microseconds, previous_seq=previous_seq, tokens=tokens_of(one), body=body)


def newest(told: Sequence[Episode]) -> tuple[Episode, ...]:
    """As many of the newest as fit, at least one."""
    total, first = 0, len(told)
    for position in range(len(told) - 1, -1, -1):
        total += tokens_of(told[position])
        if total > MOST_TOKENS and first < len(told):
            break
        first = position
    return tuple(told[first:])


def _newer_than_held(continued: Continued, held: Mapping[UUID, Episode]) -> tuple[UUID, ...]:
    """The runs that have ended since the newest that is held; none where that one is not of them."""
    last = next(reversed([*held]), None)
    return continued.runs[continued.runs.index(last) + 1 :] if last in continued.runs else ()


def _is_all_that_fits(found: Sequence[Episode], continued: Continued, held: Mapping[UUID, Episode]) -> bool:
    """Whether these are the newest, and nothing older would fit: there is none, or the next is known and too long."""
    if not found or [one.run_id for one in found] != list(continued.runs[-len(found) :]):
        return False
    return len(found) == len(continued.runs) or continued.runs[-len(found) - 1] in held


def tokens_of(one: Episode) -> int:
    """About as many tokens as it takes."""
    return sum(len(text.encode()) for text in (*one.said, one.answered)) // BYTES_PER_TOKEN + 20
