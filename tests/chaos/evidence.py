"""What there is to judge when the storm is over: rows of Postgres, read as its owner with plain SQL, and the ledger.

Nothing here goes through the engine's own readers: an instrument that asks the accused is none.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
from psycopg.rows import dict_row

from chaos.ledger import Call, Effect, Knock, Ledger

# A supervisor that was just killed is back by then, and has closed what had ended.
DRAIN_SECONDS = 30.0
LOOK_SECONDS = 0.1
# A call that does not say which run it is of.
NAMELESS = ""
# What works on files of a run; none of them lives on between two steps. A sandbox has no name of its own and an empty
# environment, but its arguments say which folder is seen inside.
HELPERS = frozenset({"git", "prlimit", "timeout"})
WORKSPACES = "workspaces"

_RUNS = "SELECT id, tenant, status, head_seq, plan_version, finished_at FROM chargehand.runs WHERE id = ANY(%(runs)s)"
_STEPS = """
SELECT id, run, key, spec, status, epoch, crashes, head_seq, lease_until, holder,
       allotment_microusd, reserved_microusd, spent_microusd
FROM chargehand.steps WHERE run = ANY(%(runs)s) ORDER BY run, ordinal
"""
_EDGES = "SELECT predecessor, successor FROM chargehand.edges WHERE run = ANY(%(runs)s)"
_BUDGETS = "SELECT run, cap_microusd, drawn_microusd FROM chargehand.budgets WHERE run = ANY(%(runs)s)"
_JOURNAL = """
SELECT tenant, run, step, seq, kind, schema_version, epoch, at, body, salt, body_hash, hash
FROM chargehand.journal WHERE run = ANY(%(runs)s) ORDER BY run, step, seq
"""
_ANCHORS = """
SELECT tenant, seq, run, run_seq, run_hash, hash, seal FROM chargehand.run_anchors
WHERE tenant IN (SELECT tenant FROM chargehand.runs WHERE id = ANY(%(runs)s)) ORDER BY tenant, seq
"""
_ANCHORS_OF_RUNS = """
SELECT tenant, seq, run, run_seq, run_hash, hash, seal FROM chargehand.run_anchors WHERE run = ANY(%(runs)s)
"""
_SETTLEMENTS = """
SELECT run, step, call, cost_microusd, booked FROM chargehand.settlements WHERE run = ANY(%(runs)s)
"""
_SIZES = """
SELECT known.id, count(s.id) AS steps FROM (
    SELECT id FROM chargehand.runs UNION SELECT run FROM chargehand.submissions
) known LEFT JOIN chargehand.steps s ON s.run = known.id GROUP BY known.id ORDER BY known.id
"""
_SUBMITTED = "SELECT run FROM chargehand.submissions"
_KNOWN = "SELECT id FROM chargehand.runs UNION SELECT run FROM chargehand.submissions"
_UNDER_WAY = """
SELECT run FROM chargehand.rings WHERE run = ANY(%(runs)s)
UNION SELECT run FROM chargehand.submissions WHERE run = ANY(%(runs)s)
UNION SELECT run FROM chargehand.settlements WHERE run = ANY(%(runs)s) AND booked IS NULL
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the journal."""

    tenant: UUID
    run: UUID
    step: UUID
    """The nil id in the run's own stream."""
    seq: int
    kind: str
    schema_version: int
    epoch: int
    at: datetime
    body: str | None
    salt: bytes | None
    body_hash: bytes
    hash: bytes

    @cached_property
    def fact(self) -> Mapping[str, Any]:
        """The body's JSON; empty once erased."""
        return dict(json.loads(self.body)) if self.body is not None else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as the tables have it."""

    id: UUID
    tenant: UUID
    status: str
    head_seq: int
    plan_version: int
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step as the tables have it."""

    id: UUID
    run: UUID
    key: str
    spec: Mapping[str, Any]
    status: str
    epoch: int
    crashes: int
    head_seq: int
    lease_until: datetime | None
    holder: str | None
    allotment_microusd: int
    reserved_microusd: int
    spent_microusd: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a run may spend, and has given to its steps."""

    run: UUID
    cap_microusd: int
    drawn_microusd: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """What a call cost whose answer came when its step had let go of it."""

    run: UUID
    step: UUID
    call: UUID
    cost_microusd: int
    booked: str | None
    """`run`, or `nowhere` when the run was sealed; None: not accounted for yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """An ended run in its tenant's chain."""

    tenant: UUID
    seq: int
    run: UUID
    run_seq: int
    run_hash: bytes
    hash: bytes
    seal: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Strike:
    """Something that the nemesis did, by the clock that Postgres and the ledger share."""

    what: str
    at: float
    """Seconds since the epoch."""
    until: float
    """When what was struck was whole again; `at` for what is over at once."""
    pid: int | None = None
    """The process that was killed, if one was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that the checker looks at; judging it does no I/O."""

    accepted: frozenset[UUID]
    """Runs that somebody was told of: by a submit that returned, or by a transaction of their own that committed."""
    submissions: frozenset[UUID] = frozenset()
    """Requests that no supervisor has turned into a run yet."""
    runs: Sequence[Run] = ()
    steps: Sequence[Step] = ()
    edges: Collection[tuple[UUID, UUID]] = ()
    """predecessor, successor."""
    budgets: Sequence[Budget] = ()
    settlements: Sequence[Settlement] = ()
    journal: Sequence[Row] = ()
    """Each stream's rows together, by seq."""
    anchors: Sequence[Anchor] = ()
    """The chains of the tenants, whole: also of runs that are not judged."""
    knocks: Sequence[Knock] = ()
    effects: Sequence[Effect] = ()
    calls: Sequence[Call] = ()
    reported: frozenset[str] = frozenset()
    """Runs that anything was reported of to the ledger, where all of them are asked for."""
    strikes: Sequence[Strike] = ()
    leftovers: Sequence[str] = ()
    """Processes and clones that should not be there, as a person would name them."""
    audit_key: bytes = b""
    lease_seconds: float = 15.0
    max_crashes: int = 2
    recovery_margin_seconds: float = 5.0
    places: int = 0
    """Steps or packs that a pool runs at a time; 0: nobody needed to wait for one."""
    outcomes: Mapping[UUID, Collection[str]] = field(default_factory=dict)
    """How a run may have ended, where that is known; others may end in any way."""


def gather(
    database_url: str,
    ledger: Ledger,
    *,
    accepted: Collection[UUID] | None = None,
    audit_key: bytes,
    lease_seconds: float,
    max_crashes: int,
    patience_seconds: float = DRAIN_SECONDS,
    in_parts: bool = False,
    **rest: Any,
) -> Evidence:
    """The evidence about these runs, or about every run of the database, once no supervisor has anything left to do.

    `rest`: what neither Postgres nor the ledger knows. What is under way after `patience_seconds` is taken as it is.
    `in_parts`: these are some of the runs of a story; what belongs to none or to all of them is in `gather_whole`.
    """
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        if accepted is None:
            accepted = [row["id"] for row in connection.execute(_KNOWN)]
        runs = {"runs": list(accepted)}
        _wait_while(lambda: bool(connection.execute(_UNDER_WAY, runs).fetchall()), patience_seconds)
        # One snapshot: a row that comes while we read belongs to all of them or to none.
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

            def rows(statement: str) -> list[Any]:
                return connection.execute(statement, runs).fetchall()

            read = {
                "submissions": frozenset(row["run"] for row in connection.execute(_SUBMITTED)) & {*accepted},
                "runs": [Run(**row) for row in rows(_RUNS)],
                "steps": [Step(**row) for row in rows(_STEPS)],
                "edges": frozenset((row["predecessor"], row["successor"]) for row in rows(_EDGES)),
                "budgets": [Budget(**row) for row in rows(_BUDGETS)],
                "settlements": [Settlement(**row) for row in rows(_SETTLEMENTS)],
                "journal": [Row(**row) for row in rows(_JOURNAL)],
                "anchors": [Anchor(**row) for row in rows(_ANCHORS_OF_RUNS if in_parts else _ANCHORS)],
            }
    # A call that does not say whose it is may be of any of them.
    nameless = [] if in_parts else ledger.calls(NAMELESS)
    return Evidence(
        accepted=frozenset(accepted),
        **read,
        knocks=[knock for run in accepted for knock in ledger.knocks(run)],
        effects=[effect for run in accepted for effect in ledger.effects(run)],
        calls=[*(call for run in accepted for call in ledger.calls(run)), *nameless],
        audit_key=audit_key,
        lease_seconds=lease_seconds,
        max_crashes=max_crashes,
        **rest,
    )


def gather_whole(database_url: str, ledger: Ledger, *, audit_key: bytes, **rest: Any) -> Evidence:
    """What belongs to no run or to all of them: the tenants' chains, nameless calls, and `rest`."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        every: dict[str, Any] = {"runs": [row["id"] for row in connection.execute(_KNOWN)]}
        anchors = [Anchor(**row) for row in connection.execute(_ANCHORS, every)]
    return Evidence(
        accepted=frozenset(every["runs"]),
        anchors=anchors,
        calls=ledger.calls(NAMELESS),
        reported=ledger.runs() - {NAMELESS},
        audit_key=audit_key,
        **rest,
    )


def sizes_of_runs(database_url: str) -> dict[UUID, int]:
    """Every run and request there is, oldest first, with the number of its steps."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        return {row["id"]: int(row["steps"]) for row in connection.execute(_SIZES)}


def leftovers(home: Path, *, expected: Collection[int], patience_seconds: float = DRAIN_SECONDS) -> list[str]:
    """Processes of the machine in `home` but for the expected ones, and clones of attempts that are over.

    What is about to end has this long to do so.
    """
    found: list[str] = []

    def look() -> bool:
        found[:] = [*_processes_left(home, {*expected, os.getpid()}), *_clones_left(home)]
        return bool(found)

    _wait_while(look, patience_seconds)
    return found


def _processes_left(home: Path, expected: Collection[int]) -> list[str]:
    left = []
    for process in psutil.process_iter():
        try:
            if process.pid in expected or process.status() == psutil.STATUS_ZOMBIE:
                continue
            # Ours by the environment that it was started with, or a helper that works on files of a run.
            line = " ".join(process.cmdline())
            ours = process.environ().get("CHARGEHAND_HOME") == str(home)
            helps = process.name() in HELPERS and (str(home) in line or process.cwd().startswith(str(home)))
            if ours or helps or f"{home / WORKSPACES}{os.sep}" in line:
                left.append(f"process {process.pid} is left over: {line[:120]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return left


def _clones_left(home: Path) -> list[str]:
    folder = home / WORKSPACES
    return [f"clone {path.relative_to(folder)} is left over" for path in sorted(folder.glob("*/*/*"))]


def _wait_while(condition: Callable[[], bool], patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
