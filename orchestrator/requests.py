"""What a caller may ask for, checked before anything is written."""

import re
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import cast, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from chargehand.orchestrator.errors import InvalidBudget, InvalidGoal, InvalidPlan, UserError
from chargehand.orchestrator.facts import OnBudget, OnConflict, WorkspaceRef
from chargehand.orchestrator.plan import Plan, Step, Tier

# A goal is an instruction; what is longer is a document and belongs into the workspace.
MAX_GOAL_BYTES = 100_000
MICROUSD = 1_000_000
# A name that people choose, and an index holds.
MAX_KEY_CHARACTERS = 200
# Who is wrong so often does not know the way.
MAX_REPLANS = 10
# Surrogates other than those by which Python carries the bytes of a broken argument (U+DC80 to U+DCFF).
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class RunRequest(BaseModel):
    """A run somebody asks for; a value that can wait in a table until a supervisor accepts it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: UUID
    goal: str
    plan: Plan
    workspace: WorkspaceRef | None = None
    budget_microusd: int = Field(gt=0)
    priority: int = 0
    idempotency_key: str | None = None
    deadline_seconds: float | None = Field(default=None, gt=0)
    conversation_id: str | None = None
    concurrency_key: str | None = None
    """At most one run of the tenant with this key is under way."""
    on_conflict: OnConflict = "queue"
    tier: Tier | None = None
    """Size of model for agents whose steps name none."""
    model: str | None = None
    """A model by its name, for them too."""
    replans: int = Field(default=0, ge=0, le=MAX_REPLANS)
    """How often the planner may be asked for another plan."""
    on_budget: OnBudget = "fail"
    """What a step does whose call does not fit into the budget: it fails, or asks a person for more."""
    max_calls: int | None = Field(default=None, gt=0)
    """Of models, in the whole run."""
    max_tokens: int | None = Field(default=None, gt=0)
    """In and out, those read from a cache too, in the whole run."""
    consolidate_microusd: int | None = Field(default=None, gt=0)
    """What may be spent, when it has ended, to keep what it has taught; None: nothing is kept."""
    traceparent: str | None = Field(default=None, max_length=100)
    """W3C Trace Context of the program that submits it."""
    role_texts: dict[str, str] = Field(default_factory=dict)
    """name → text of roles that the caller brings; all others are the installation's."""


def microusd(budget_usd: str | Decimal) -> int:
    """A positive amount of dollars in integer micro-dollars; raises `InvalidBudget`."""
    try:
        amount = Decimal(budget_usd)
    except (InvalidOperation, ValueError) as error:
        raise InvalidBudget(f"Budget {budget_usd!r} is not a number; give dollars, for example 0.50.") from error
    if not amount.is_finite() or amount <= 0:
        raise InvalidBudget(f"Budget {budget_usd} is not positive; give dollars, for example 0.50.")
    if amount > 1_000_000:
        raise InvalidBudget(f"Budget {budget_usd} is above a million dollars; give dollars, for example 0.50.")
    micro = int(amount * MICROUSD)
    if micro <= 0:
        raise InvalidBudget(f"Budget {budget_usd} is less than a millionth of a dollar; give at least 0.000001.")
    return micro


def check_goal(goal: str, *, name: str = "goal", remedy: str = "say what should be done") -> str:
    """The goal without surrounding blanks, or a text of the kind of `name`; raises `InvalidGoal`."""
    # What is not text (a lone surrogate of a broken terminal) could not be stored as JSON.
    goal = _LONE_SURROGATE.sub("\ufffd", goal).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    goal = goal.replace("\x00", "").strip()
    if not goal:
        raise InvalidGoal(f"The {name} is empty; {remedy}.")
    size = len(goal.encode())
    if size > MAX_GOAL_BYTES:
        raise InvalidGoal(
            f"The {name} has {size:,} bytes; at most {MAX_GOAL_BYTES:,} are allowed: put long texts into the workspace."
        )
    return goal


def check_plan(plan: object) -> None:
    """Raise `InvalidPlan` for what is no plan, for example the name of its file."""
    if plan is not None and not isinstance(plan, Plan):
        raise InvalidPlan(
            f"{str(plan)[:80]!r} is no `Plan`; `load_plan(file)` and `parse_plan(text)` make one of YAML or JSON."
        )


def check_message(message: str) -> str:
    """What agents of a run are told, as it is kept; raises `InvalidGoal`."""
    return check_goal(message, name="message", remedy="say what its agents should know")


def check_instruction(instruction: str) -> str:
    """What a step is told to do, as it is kept; raises `InvalidGoal`."""
    return check_goal(instruction, name="instruction", remedy="say what the step should do, or leave it as it was")


def check_concurrency(key: str | None, on_conflict: OnConflict) -> str | None:
    """The key as it is kept; raises `UserError` for one that cannot be one, and for a policy without a key."""
    if on_conflict not in get_args(OnConflict):
        raise UserError(f"on_conflict is {on_conflict!r}; use one of: {', '.join(get_args(OnConflict))}.")
    if key is None:
        if on_conflict != "queue":
            raise UserError(f"on_conflict={on_conflict!r} needs a concurrency_key that runs could have in common.")
        return None
    key = key.strip()
    if not key or len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
        raise UserError(
            f"Concurrency key {key[:80]!r} cannot be used; give 1 to {MAX_KEY_CHARACTERS} printable characters, "
            "for example deploy-prod."
        )
    return key


def check_on_budget(policy: OnBudget) -> OnBudget:
    """The policy; raises `UserError` for one that there is not."""
    if policy not in get_args(OnBudget):
        raise UserError(f"on_budget is {policy!r}; use one of: {', '.join(get_args(OnBudget))}.")
    return policy


def check_count(name: str, count: int | None) -> int | None:
    """A cap of calls or tokens; raises `UserError` for one below 1."""
    if count is not None and count < 1:
        raise UserError(f"{name} is {count}; give at least 1, or leave it out.")
    return count


def check_conversation(name: str | None) -> str | None:
    """The name of a conversation as it is kept; raises `UserError` for one that cannot be one."""
    if name is None:
        return None
    name = name.strip()
    if not name or len(name) > MAX_KEY_CHARACTERS or not name.isprintable():
        raise UserError(
            f"Conversation {name[:80]!r} cannot be used; give 1 to {MAX_KEY_CHARACTERS} printable characters, "
            "for example release-notes."
        )
    return name


def check_model(tier: str | None, model: str | None) -> tuple[Tier | None, str | None]:
    """A tier and a model as they are kept; raises `UserError` for those that cannot be any."""
    if tier is not None and tier not in get_args(Tier):
        raise UserError(f"Tier {tier!r} does not exist; use one of: {', '.join(get_args(Tier))}.")
    if model is not None and (not model.strip() or len(model) > MAX_KEY_CHARACTERS or not model.isprintable()):
        raise UserError(
            f"Model {model[:80]!r} cannot be used; give a name, for example claude-haiku-5-5 or local/qwen3."
        )
    return cast("Tier | None", tier), model.strip() if model is not None else None


@cache
def goal_plan(*, with_workspace: bool) -> Plan:
    """What every goal starts with: look at the workspace, then let the planner decompose the goal."""
    look = Step(key="inventory", kind="script", script="inventory", pool="research", title="Look at the repository")
    decompose = Step(
        key="plan",
        kind="agent",
        role="planner",
        pool="research",
        title="Decompose the goal",
        instruction="Decompose the goal into a plan of steps that fits this repository.",
        after=("inventory",) if with_workspace else (),
    )
    return Plan.of((look, decompose) if with_workspace else (decompose,))
