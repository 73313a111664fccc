"""Scripts: plain functions that run as steps where no judgement is needed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy.orm import Session

from chargehand.memory.embedder import Embedder
from chargehand.orchestrator.facts import WorkspaceRef
from chargehand.orchestrator.views import Account

Effect = Literal["pure", "idempotent", "effectful"]
F = TypeVar("F", bound=Callable[..., object])


class Workspace(Protocol):
    """This attempt's own clone; nobody else writes there."""

    @property
    def path(self) -> Path:
        """The work tree."""
        ...

    @property
    def base_commit(self) -> str:
        """The commit of the user's repository that the run started from."""
        ...

    @property
    def head_commit(self) -> str:
        """The commit that this attempt has reached."""
        ...

    def commit(self, message: str) -> str:
        """Commit every change of the work tree and give the sha; unchanged: the old head."""
        ...

    def reset(self, commit: str) -> None:
        """Put the work tree at `commit`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptContext:
    """What a script may see of its run."""

    tenant: UUID
    run_id: UUID
    step_id: UUID
    step_key: str
    goal: str
    inputs: Mapping[str, JsonValue]
    """Results of the predecessors, by step key."""
    results: Callable[[str], JsonValue | None]
    """The result of any finished step of this run by its key, or None."""
    open_workspace: Callable[[], Workspace]
    """Makes this attempt's clone on first use, at the newest commit among the predecessors."""
    put_artifact: Callable[[str, bytes], str]
    """Keep a named blob (`report.md`) with the run and give its content hash."""
    report_progress: Callable[[str], None]
    """One short line for the live tree."""
    idempotency_key: str
    open_session: Callable[[], AbstractContextManager[Session]]
    """One transaction bound to the tenant and fenced by this attempt's epoch; commits when the block ends."""
    embedder: Callable[[], Embedder]
    """The process's embedder; the model is loaded on first use."""
    workspace: WorkspaceRef | None
    """The user's repository as it was submitted."""
    step_keys: Callable[[], Sequence[str]]
    """All steps of the plan as it is now."""
    account: Callable[[], Account]
    """What the run has cost until now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """A registered script."""

    name: str
    function: Callable[..., object]
    """Called as `function(context, **arguments)`; gives a pydantic model or a JSON value."""
    effect: Effect
    timeout_seconds: float


SCRIPTS: dict[str, Script] = {}


def script(*, name: str, effect: Effect = "pure", timeout_seconds: float = 600.0) -> Callable[[F], F]:
    """Register `function(context, **arguments)` as the script `name`."""

    def register(function: F) -> F:
        SCRIPTS[name] = Script(name=name, function=function, effect=effect, timeout_seconds=timeout_seconds)
        return function

    return register
