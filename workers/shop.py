"""What a worker process has: settings, connections, scripts, tools and models, made once and handed to each step."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chargehand.memory.artifacts import Artifacts
from chargehand.memory.embedder import Embedder
from chargehand.memory.redlock import Redlock
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.heartbeat import Heartbeat
from chargehand.orchestrator.hints import Hints
from chargehand.orchestrator.progress import Progress
from chargehand.orchestrator.settings import Settings
from chargehand.workers.holds import NOTHING_HELD, Holds
from chargehand.workers.models.interface import Batches, Models
from chargehand.workers.recollection import Recollection
from chargehand.workers.reembedding import Reembedding
from chargehand.workers.scripts.registry import Script
from chargehand.workers.thrift import Thrift
from chargehand.workers.tools.registry import Tool, ToolOutput

# Half of the engine's connections: while scripts embed in their sessions, the others must be able to read their inputs.
LONG_SESSIONS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """What a worker process has; made once by `workers.app`."""

    settings: Settings
    connections: Connections
    engine: Engine
    heartbeat: Heartbeat
    holder: str
    pool: str
    artifacts: Artifacts
    workspaces: Path
    scripts: Mapping[str, Script[..., Any]]
    tools: Mapping[str, Tool]
    models: Models
    embedder: Callable[[], Embedder]
    recall: Callable[[Session, UUID, UUID, str, int], ToolOutput]
    """`recall(session, tenant, run, query, limit)`: passages of the run's index."""
    progress: Progress
    hints: Hints
    ring: Callable[[UUID], object]
    """Ask a supervisor to advance a run now."""
    stopping: threading.Event
    """Set on SIGTERM: finish the turn, hand back."""
    holds: Holds = NOTHING_HELD
    """What is paused, and which circuits are open."""
    thrift: Thrift | None = None
    """How much of a run's budget is spent; None: no model is chosen by it."""
    batches: Batches | None = None
    """For calls that are not urgent; None: they are made like the others."""
    recollection: Recollection | None = None
    """Conversations in Redis; None: each is read from its journal."""
    broken_packages: tuple[str, ...] = ()
    """Packages whose scripts or tools could not be loaded, and why."""
    redlock: Redlock | None = None
    """Locks of leases; None: there are none."""
    reembedding: Reembedding | None = None
    """Embeds anew after a change of model; None: this pool does not embed."""
    long_sessions: threading.Semaphore = field(default_factory=lambda: threading.BoundedSemaphore(LONG_SESSIONS))
    """Taken by whoever may work for seconds between the statements of a session."""

    def not_loaded(self) -> str:
        """What to add to an error about something that nobody here knows: the packages that may have had it."""
        return f" What could not be loaded: {'; '.join(self.broken_packages)}." if self.broken_packages else ""
