"""What a replay of a run says, and how it is asked for: the process that makes it may import workers."""

import os
import subprocess
import sys
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from chargehand.orchestrator.errors import NotFound, Unavailable

PROGRAM = "chargehand.workers.replay"
# Ten million rows at half the speed that is promised.
TIMEOUT_SECONDS = 1_000.0
# A journal that another code wrote differs everywhere; the first ones tell why.
MOST_DIVERGENCES = 50
NOT_FOUND = 2


class Divergence(BaseModel):
    """A row of the journal that comes out otherwise when the run is done again from it."""

    model_config = ConfigDict(frozen=True)

    step: str | None
    """Its key; None in the run's own stream."""
    seq: int
    kind: str
    field: str
    expected: JsonValue
    """What the journal has."""
    found: JsonValue
    """What this code makes of the rows before it."""


class Replay(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True)

    run_id: UUID
    rows: int
    streams: int
    erased: int
    """Streams with erased bodies: their hashes were checked, and nothing that rests on what they said."""
    requests: int
    """Requests to models that were built again and compared by their hash."""
    tool_calls: int
    """Whose arguments were checked again."""
    decisions: int
    """Of the graph, which were made again: children, ends of control steps, skipped steps, the outcome."""
    seconds: float
    digest: str
    """SHA-256 of all bodies in the order of the journal."""
    divergences: tuple[Divergence, ...]
    """In the order of their time; the first one is the cause, more or less."""

    @property
    def first(self) -> Divergence | None:
        """Where the journal and this code part."""
        return self.divergences[0] if self.divergences else None


def ask_workers_to_replay(run_id: UUID, *, tenant: UUID | None = None, database_url: str | None = None) -> Replay:
    """Replay a run in a process that knows the tools and outputs of workers started here.

    `tenant`, `database_url`: others than those of the settings. Raises `NotFound`, and `Unavailable` when that process
    cannot do its work.
    """
    other = {"CHARGEHAND_TENANT": tenant, "CHARGEHAND_DATABASE_URL": database_url}
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROGRAM, str(run_id)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env={**os.environ, **{name: str(value) for name, value in other.items() if value is not None}},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"The run cannot be replayed: {error}.") from error
    if done.returncode == NOT_FOUND:
        raise NotFound(done.stderr.strip().splitlines()[-1])
    try:
        # A module of the user may print while it is imported.
        return Replay.model_validate_json(done.stdout.rpartition("\n")[2])
    except ValidationError as error:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unavailable(f"The run cannot be replayed: {said[-1]}") from error
