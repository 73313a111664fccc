"""Commits that threads of one process want at the same moment, carried to the disk as one by one of them.

A thread whose statement can share a commit takes a *lane* when one is free, and goes at once. While all lanes are under
way the others queue up; whoever comes back makes the first of them the next *carrier*, and that one takes along all
that wait by then. So nothing waits for company, and the busier a process is, the more turns share a transaction, a
flush of the log and a round trip. Who has waited too long, because a lane hangs, goes alone.

Each statement keeps its own outcome. The joint one passes over a row that it may not write or that somebody has
locked, and whoever is passed over runs its own statement, which waits, or says why not. If the joint one fails as a
whole, nothing of it was written, and each runs its own. If the connection breaks, each asks what became of its own.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import psycopg

from chargehand.orchestrator.errors import ReplyLost, Unavailable
from chargehand.orchestrator.prepared import Parameters, Row

# Fewer share more, and get less of a machine whose cores others want, too; with more, less is shared.
LANES = 2
# A statement of so many rows takes a few milliseconds, and all of them wait for it.
MOST_TOGETHER = 32
# What is longer would keep the others waiting.
LONGEST_TEXT = 100_000
# A commit takes this long on a bad disk. Longer is a lock that somebody holds, or a server that keeps silent.
PATIENCE_SECONDS = 0.1

# Runs one statement and commits it; raises `ReplyLost` when nobody knows whether it was committed.
Run = Callable[[UUID, str, Parameters], list[Row]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How many statements are written as one."""

    statement: str
    """Gives a row for each step that it has written, with its `id`."""
    gather: Callable[[Sequence[Parameters]], Parameters]
    """Its parameters, from those of each."""


class Joint(str):
    """A statement about one step, `%(step)s`, that can share a commit with those of the same form about others."""

    form: Form

    def __new__(cls, statement: str, form: Form) -> Self:
        """The statement as it is sent when it is alone."""
        made = super().__new__(cls, statement)
        made.form = form
        return made


@dataclass(kw_only=True, slots=True, eq=False)
class _Wish:
    """What one thread wants written, and what became of it."""

    tenant: UUID
    statement: Joint
    parameters: Parameters
    answered: threading.Lock = field(default_factory=threading.Lock)
    carries: bool = False
    """Its thread is the next carrier."""
    rows: list[Row] | None = None
    """None: it was passed over, and runs alone."""
    outage: Unavailable | None = None

    def may_join(self, other: "_Wish") -> bool:
        """Whether both fit into one statement: a session acts for one tenant."""
        return self.tenant == other.tenant and self.statement.form is other.statement.form


class JointCommits:
    """The lanes of one pool of connections."""

    def __init__(self, run: Run, *, lanes: int = LANES, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Nobody waits yet."""
        self._run = run
        self._patience_seconds = patience_seconds
        self._free = lanes
        self._guard = threading.Lock()
        self._waiting: list[_Wish] = []

    def run(self, tenant: UUID, statement: Joint, parameters: Parameters) -> list[Row]:
        """The rows of `statement`, committed alone or with others."""
        with self._guard:
            wish = None
            if goes_at_once := self._free > 0:
                self._free -= 1
            elif not _is_long(parameters):
                wish = _Wish(tenant=tenant, statement=statement, parameters=parameters)
                wish.answered.acquire()
                self._waiting.append(wish)
        if goes_at_once:
            try:
                return self._run(tenant, statement, parameters)
            finally:
                self._pass_on()
        if wish is not None and self._is_answered(wish):
            if wish.carries:
                self._carry(wish)
            if wish.outage is not None:
                # Each raises one of its own: an error collects the frames that it passes through.
                raise type(wish.outage)(str(wish.outage))
            if wish.rows is not None:
                return wish.rows
        return self._run(tenant, statement, parameters)

    def _is_answered(self, wish: _Wish) -> bool:
        """Wait until it was carried or is to carry; False: no lane came free in time."""
        if wish.answered.acquire(timeout=self._patience_seconds):
            return True
        with self._guard:
            if wish in self._waiting:
                self._waiting.remove(wish)
                return False
        # It is under way: only the end of that says what became of it.
        wish.answered.acquire()
        return True

    def _pass_on(self) -> None:
        """Give the lane to whoever waits longest, or free it."""
        with self._guard:
            if not self._waiting:
                self._free += 1
                return
            wish = self._waiting.pop(0)
        wish.carries = True
        wish.answered.release()

    def _carry(self, first: _Wish) -> None:
        """Write the wish of this thread and those that wait with it; pass the lane on, then tell them."""
        together = self._gather(first)
        try:
            if len(together) > 1:
                self._write(first, together)
            else:
                first.rows = self._run(first.tenant, first.statement, first.parameters)
        finally:
            self._pass_on()
            for wish in together[1:]:
                wish.answered.release()

    def _gather(self, first: _Wish) -> list[_Wish]:
        together, left, steps = [first], [], {first.parameters["step"]}
        with self._guard:
            for wish in self._waiting:
                step = wish.parameters["step"]
                # One statement writes a row once.
                if len(together) < MOST_TOGETHER and step not in steps and first.may_join(wish):
                    together.append(wish)
                    steps.add(step)
                else:
                    left.append(wish)
            self._waiting = left
        return together

    def _write(self, first: _Wish, together: Sequence[_Wish]) -> None:
        form = first.statement.form
        # Unless it is said otherwise below: the thread of a process that ends.
        outage: Unavailable | None = ReplyLost("Postgres broke off: whoever carried this commit did not come back.")
        try:
            parameters = form.gather([wish.parameters for wish in together])
            written = {row["id"]: row for row in self._run(first.tenant, form.statement, parameters)}
            for wish in together:
                row = written.get(wish.parameters["step"])
                wish.rows = None if row is None else [row]
            outage = None
        except Unavailable as error:
            outage = error
        except (psycopg.Error, TypeError, ValueError):
            # One of them cannot be sent or is refused: which one, each finds out alone.
            outage = None
        finally:
            for wish in together:
                wish.outage = outage


def _is_long(parameters: Parameters) -> bool:
    return any(isinstance(value, str) and len(value) > LONGEST_TEXT for value in parameters.values())
