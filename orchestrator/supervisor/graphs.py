"""The graphs of runs under way, each read once: only where its steps stand is read in every round."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.rounds import Place, Standing

# Plans have at most 2,000 steps, a place takes about half a kilobyte.
MOST_GRAPHS = 64

_PLACES = """
SELECT id, key, ordinal, pool, spec->>'kind', coalesce(spec->>'role', spec->>'script'), spec->>'join',
    nullif(spec->'when', '{}'::jsonb), spec->>'parent'
FROM steps WHERE run = %(run)s ORDER BY ordinal
"""
_EDGES = "SELECT successor, predecessor FROM edges WHERE run = %(run)s"
_STANDINGS = """
SELECT status, head_seq, solo, anchored, patched, reserved_microusd, label,
    status = 'waiting' AND coalesce(wait_reason = 'children', false)
FROM steps WHERE run = %(run)s ORDER BY ordinal
"""

Places = Mapping[UUID, Place]


class Graphs:
    """The newest graphs that this process has read; any thread may ask.

    A plan only grows, and with each change its version does: a graph of that version is never stale.
    """

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        """Empty."""
        self._most = most
        self._known: OrderedDict[UUID, tuple[int, Places]] = OrderedDict()
        self._guard = threading.Lock()

    def places(self, connection: Connection, run_id: UUID, plan_version: int) -> Places:
        """Every step's place, in plan order; the caller has read `plan_version` in this transaction."""
        with self._guard:
            version, places = self._known.get(run_id, (0, {}))
            if version == plan_version:
                self._known.move_to_end(run_id)
                return places
        places = read_places(connection, run_id)
        with self._guard:
            self._known[run_id] = (plan_version, places)
            self._known.move_to_end(run_id)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return places

    def may_have(self, run_id: UUID, kind: str) -> bool:
        """Whether the run has steps of that kind, as far as this process has read its graph."""
        with self._guard:
            known = self._known.get(run_id)
        return known is None or any(place.kind == kind for place in known[1].values())


def standings(connection: Connection, run_id: UUID, places: Places) -> dict[UUID, Standing]:
    """Where the steps at these places stand now; steps that came later are left out."""
    # Both in plan order, and a plan grows at its end. The keys are those of `places`: a thousand ids are not made anew.
    return dict(zip(places, map(Standing._make, _rows(connection, _STANDINGS, run_id)), strict=False))


def read_places(connection: Connection, run_id: UUID) -> Places:
    """Every step's place as this transaction sees it, in plan order."""
    rows = _rows(connection, _PLACES, run_id)
    # One object an id: looking up an equal one costs a comparison in Python.
    known = {row[0]: row[0] for row in rows}
    after: dict[UUID, list[UUID]] = defaultdict(list)
    for successor, predecessor in _rows(connection, _EDGES, run_id):
        after[successor].append(known[predecessor])
    return {
        row[0]: Place(
            step_id=row[0],
            key=row[1],
            ordinal=row[2],
            pool=row[3],
            kind=row[4],
            name=row[5],
            join=row[6],
            after=tuple(after[row[0]]),
            when={step_id(run_id, key): label for key, label in (row[7] or {}).items()},
            parent=None if row[8] is None else known[step_id(run_id, row[8])],
        )
        for row in rows
    }


def _rows(connection: Connection, statement: str, run_id: UUID) -> list[Any]:
    # Straight from the driver: SQLAlchemy's own rows of a thousand steps cost as much as Postgres.
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(statement, {"run": run_id})
        return list(cursor.fetchall())
