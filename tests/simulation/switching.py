"""The fleet's switches: the mirror of `orchestrator/switches.py`."""

from datetime import UTC, datetime

from chargehand.orchestrator.switches import Kind, Switch
from simulation.tables import Tables


def switch_off(tables: Tables, kind: Kind, name: str) -> bool:
    """Pause it for all; False when it is paused already."""
    if (kind, name) in tables.switches:
        return False
    tables.switches[kind, name] = tables.clock.now
    return True


def switch_on(tables: Tables, kind: Kind, name: str) -> bool:
    """Let it go on, and wake the steps that wait; False when it is not paused."""
    if tables.switches.pop((kind, name), None) is None:
        return False
    wake_who_waits(tables)
    return True


def wake_who_waits(tables: Tables) -> None:
    """Those that find it paused still wait again."""
    for row in tables.steps.values():
        if row.status == "waiting" and row.wait_reason == "paused":
            row.run_after = tables.clock.now


def off_since(tables: Tables, kind: Kind, name: str | None) -> float | None:
    """Since when this is paused, by its own switch or with everything."""
    found = [tables.switches[one] for one in (("all", ""), (kind, name or "")) if one in tables.switches]
    return min(found, default=None)


def listed(tables: Tables) -> list[Switch]:
    """What is paused, as workers read it."""
    return [
        Switch(kind=kind, name=name, by="somebody", reason="", since=datetime.fromtimestamp(since, UTC))  # type: ignore[arg-type]
        for (kind, name), since in tables.switches.items()
    ]
