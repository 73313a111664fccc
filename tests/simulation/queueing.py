"""Concurrency keys: the mirror of `orchestrator/concurrency.py` and `supervisor/queueing.py`."""

from uuid import UUID

from chargehand.orchestrator.concurrency import LIVE, UNDER_WAY
from chargehand.orchestrator.errors import ConcurrencyConflict
from chargehand.orchestrator.facts import OnConflict, RunStarted
from simulation.tables import RunIsLocked, RunLine, Tables


def others(tables: Tables, tenant: UUID, key: str, but: UUID) -> list[RunLine]:
    """The runs that have this key or wait for it, first come first."""
    found = [
        run
        for run in tables.runs.values()
        if run.tenant == tenant and run.concurrency_key == key and run.id != but and run.status in LIVE
    ]
    return sorted(found, key=lambda run: (run.created_at, run.id))


def must_wait(on_conflict: OnConflict, ahead: list[RunLine]) -> bool:
    """Whether a request is queued behind these; raises `ConcurrencyConflict` when it is not to be."""
    if ahead and on_conflict == "reject":
        raise ConcurrencyConflict(f"The key is taken by run {ahead[0].goal!r}.")
    return bool(ahead) and on_conflict == "queue"


def lock_to_end(ahead: list[RunLine]) -> list[RunLine]:
    """Those that have not ended; raises `RunIsLocked`: in Postgres the caller would wait."""
    if any(run.is_locked for run in ahead):
        raise RunIsLocked
    return ahead


def next_in_line(tables: Tables) -> list[UUID]:
    """`_NEXT`: the heads of all lines whose key nobody has."""
    heads: dict[tuple[UUID, str], RunLine] = {}
    for run in tables.runs.values():
        if run.status != "queued" or run.concurrency_key is None or is_taken(tables, run):
            continue
        line = (run.tenant, run.concurrency_key)
        if line not in heads or comes_first(run, heads[line]):
            heads[line] = run
    return [run.id for run in heads.values()]


def is_taken(tables: Tables, run: RunLine) -> bool:
    """Whether somebody has the key that the run waits for."""
    return any(one.status in UNDER_WAY for one in others(tables, run.tenant, run.concurrency_key or "", run.id))


def comes_first(run: RunLine, other: RunLine) -> bool:
    """Whether the run stands before the other in their line."""
    return (run.created_at, run.id) < (other.created_at, other.id)


def start(tables: Tables, run_id: UUID) -> bool:
    """`_start`: let one that was found at the head of its line go."""
    run = tables.runs[run_id]
    if run.status != "queued" or run.is_locked:
        return False
    run.status = "running"
    tables.record(run, RunStarted())
    tables.ring(run_id)
    return True
