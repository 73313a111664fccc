"""Scripts: plain functions that run as steps where no judgement is needed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

from pydantic import JsonValue

from chargehand.orchestrator.drafts import Draft
from chargehand.orchestrator.outputs import refuse_namesake
from chargehand.orchestrator.plan import Pool
from chargehand.workers.scripts.parameters import Parameters, read_parameters

# Only named here: a program that writes plans need not load a database driver and a model for it.
if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from chargehand.memory.embedder import Embedder
    from chargehand.orchestrator.facts import WorkspaceRef
    from chargehand.orchestrator.views import Account
    from chargehand.workers.blackboard import Blackboard

Effect = Literal["pure", "idempotent", "effectful"]
P = ParamSpec("P")
R = TypeVar("R")


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

    def merge(self, commit: str) -> tuple[str, ...]:
        """Join another commit of the run to the head; gives the files in which they conflict."""
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
    open_session: "Callable[[], AbstractContextManager[Session]]"
    """One transaction bound to the tenant and fenced by this attempt's epoch; commits when the block ends."""
    embedder: "Callable[[], Embedder]"
    """The process's embedder; the model is loaded on first use."""
    workspace: "WorkspaceRef | None"
    """The user's repository as it was submitted."""
    step_keys: Callable[[], Sequence[str]]
    """All steps of the plan as it is now."""
    account: "Callable[[], Account]"
    """What the run has cost until now."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Where the predecessors left the workspace, by step key, in the order the step names them."""
    blackboard: "Blackboard | None" = None
    """Values that the steps of this run share; `blackboard.across_runs`: those of all runs. None outside a worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script(Generic[P, R]):
    """A registered script; calling it calls the function."""

    name: str
    function: Callable[P, R]
    """Gives a pydantic model, a dataclass or a JSON value."""
    effect: Effect
    timeout_seconds: float
    pool: Pool
    retries: int
    parameters: Parameters

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R:
        """Call the function as it was written, for tests and other scripts."""
        return self.function(*arguments, **named)

    def step(self, *arguments: object, **named: object) -> Draft:
        """A step of a plan that runs it; a step given as an argument stands for its result.

        What is left out is filled from the steps before it, see `Plan`. Raises `InvalidPlan`.
        """
        return Draft(
            name=self.name,
            fields={"kind": "script", "script": self.name, "pool": self.pool, "retries": self.retries},
            arguments=self.parameters.written(arguments, named),
            parameters=self.parameters.declared,
            gives=self.parameters.gives,
        )

    def run(self, context: ScriptContext, arguments: Mapping[str, JsonValue]) -> R:
        """Call the function with a step's arguments; raises `ArgumentsDoNotFit`, and whatever the function raises."""
        values: dict[str, Any] = self.parameters.filled(
            arguments, context=context, idempotency_key=context.idempotency_key, results=context.results
        )
        call: Callable[..., R] = self.function
        return call(**values)


SCRIPTS: dict[str, Script[..., Any]] = {}


@overload
def script(function: Callable[P, R], /) -> Script[P, R]: ...


@overload
def script(
    *,
    name: str | None = None,
    effect: Effect = "pure",
    timeout_seconds: float = 600.0,
    pool: Pool = "research",
    retries: int = 0,
) -> Callable[[Callable[P, R]], Script[P, R]]: ...


def script(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    effect: Effect = "pure",
    timeout_seconds: float = 600.0,
    pool: Pool = "research",
    retries: int = 0,
) -> Any:
    """Register a typed function as a script, under its own name or `name`.

    A `ScriptContext` parameter and `idempotency_key: str` are injected; all others are a step's arguments. Raises
    `TypeError` for a function that cannot be one, and when another script has the name.
    """

    def register(written: Callable[..., Any]) -> Script[..., Any]:
        chosen = name or written.__name__
        known = SCRIPTS.get(chosen)
        refuse_namesake(
            "script", chosen, known and known.function, written, remedy='name yours, as in @script(name="shop.load")'
        )
        made: Script[..., Any] = Script(
            name=chosen,
            function=written,
            effect=effect,
            timeout_seconds=timeout_seconds,
            pool=pool,
            retries=retries,
            parameters=read_parameters(written, script=chosen, context_type=ScriptContext),
        )
        SCRIPTS[chosen] = made
        return made

    return register if function is None else register(function)
