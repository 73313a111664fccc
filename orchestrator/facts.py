"""Everything that can happen to a run, as typed journal bodies.

A fact is one row of the journal. A run has a stream of its own (`RunFact`), each of its steps has one (`StepFact`).
A body is never changed after it was written: a new meaning is a new kind or a higher `SCHEMA_VERSION`.

The rule of versions. A fact refuses fields and kinds that it does not know, so every change of what a body may hold, in
here or in the `Plan` that it carries, needs a higher version: a process of the version before then leaves the stream to
one that knows it, instead of failing on it. A version is fixed by the first release that writes it, and no release has
been made yet: until then the facts of version 1 may grow. `tests/data/facts/<version>.json` has the fields of each.
A higher version only adds: a kind, a field with a default, a value. What an older one wrote is read for ever.
"""

from datetime import datetime
from typing import Annotated, ClassVar, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from chargehand.orchestrator.approval import Guarded
from chargehand.orchestrator.errors import IllegalFact, NewerVersion
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, Tier

# Raised by the rule above; a reader that meets a higher one leaves the stream alone.
SCHEMA_VERSION = 1

RunOutcome = Literal["succeeded", "failed", "cancelled"]
StepOutcome = Literal["succeeded", "failed", "cancelled"]
OnConflict = Literal["queue", "reject", "cancel_older"]
"""What becomes of a run whose concurrency key another one has: it waits, is refused, or takes the other's place."""
OnBudget = Literal["fail", "ask"]
# The error of a step, and the reason of a run, that failed because money, calls, tokens or time were used up.
OVER_BUDGET = "budget: "
# The same of a step whose own cap was used up: the run may have more.
OVER_OWN_BUDGET = "budget: its own is used up. "
WaitReason = Literal[
    "human", "gate", "rate", "budget", "retry", "children", "celery_task", "paused", "circuit", "batch"
]


class Fact(BaseModel):
    """One thing that happened; immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: ClassVar[Literal["run", "step"]]


# Error type of a call that a person, or nobody in time, has let be left out.
SKIPPED = "Skipped"


# --- the run's stream -------------------------------------------------------------------------------------------------


class WorkspaceRef(BaseModel):
    """The user's repository as the run sees it: a commit in a bare repository among the artifacts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """What the user named: a path or a URL."""
    commit: str
    uncommitted: tuple[str, ...] = ()
    """Files of a dirty tree, which the run does not see."""
    submodules: tuple[str, ...] = ()


class Origin(BaseModel):
    """A row of another run's journal, from which something was taken over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: UUID
    step: UUID
    seq: int
    hash: str
    """Of that row, so that it can be told whether it still says the same."""


class ForkedFrom(BaseModel):
    """Where a run left another one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: UUID
    at: str
    """Key of the step that is done anew, with all that was built on it."""
    turn: int | None = None
    """Of an agent: the first turn that is done anew."""


class RunSubmitted(Fact):
    """The run was accepted."""

    stream = "run"
    kind: Literal["run.submitted"] = "run.submitted"
    goal: str
    plan: Plan
    workspace: WorkspaceRef | None = None
    budget_microusd: int
    priority: int = 0
    idempotency_key: str | None = None
    role_versions: dict[str, str] = Field(default_factory=dict)
    """role → blob hash, pinned for the whole run."""
    deadline_seconds: float | None = None
    conversation_id: str | None = None
    continues: tuple[UUID, ...] = ()
    """Runs of its conversation that had ended, oldest first: its agents are shown what they were told and answered."""
    concurrency_key: str | None = None
    forked_from: ForkedFrom | None = None
    tier: Tier | None = None
    """Size of model for agents whose steps name none."""
    model: str | None = None
    """A model by its name, for them too."""
    replans: int = 0
    """How often the planner may be asked for another plan when a step has failed, or when an agent asks for it."""
    on_budget: OnBudget = "ask"
    """What a step does whose call does not fit into the budget; rows of before there was a choice asked."""
    max_calls: int | None = None
    max_tokens: int | None = None
    traceparent: str | None = None
    """W3C Trace Context of the program that submitted it: its trace goes on in the run."""


class RunQueued(Fact):
    """Another run has its concurrency key: nothing starts before that one has ended."""

    stream = "run"
    kind: Literal["run.queued"] = "run.queued"
    behind: UUID
    """The run that was under way with the key, or the last one that waited for it."""


class RunStarted(Fact):
    """Its concurrency key has become free."""

    stream = "run"
    kind: Literal["run.started"] = "run.started"


class PlanPatched(Fact):
    """The graph grew."""

    stream = "run"
    kind: Literal["plan.patched"] = "plan.patched"
    patch: PlanPatch
    plan_version: int
    by_step: UUID | None = None
    reason: str = ""
    """Why, where the planner is asked for another plan or has given one; who has wanted a step to be done again."""


class RunPaused(Fact):
    """Nothing new starts; running steps stop at their next commit."""

    stream = "run"
    kind: Literal["run.paused"] = "run.paused"
    reason: str = ""


class RunResumed(Fact):
    """Work goes on."""

    stream = "run"
    kind: Literal["run.resumed"] = "run.resumed"


class BudgetRaised(Fact):
    """The run may spend more than it was given at first."""

    stream = "run"
    kind: Literal["budget.raised"] = "budget.raised"
    budget_microusd: int
    """All in all."""


class BudgetWarned(Fact):
    """The run has spent this much of its budget."""

    stream = "run"
    kind: Literal["budget.warned"] = "budget.warned"
    percent: int
    """50, 80 or 95: each is told once of a budget."""
    spent_microusd: int
    budget_microusd: int


class StepsSkipped(Fact):
    """Steps that end without ever having been claimed: nothing reaches them, or they were cancelled."""

    stream = "run"
    kind: Literal["steps.skipped"] = "steps.skipped"
    steps: tuple[UUID, ...]
    outcome: Literal["skipped", "cancelled"] = "skipped"
    reason: str


class JoinsWon(Fact):
    """`any` joins that begin, and whose success each of them goes on with."""

    stream = "run"
    kind: Literal["joins.won"] = "joins.won"
    winners: dict[str, str]
    """Key of the join → key of the first to succeed of those that it waited for."""


class StepAnchor(BaseModel):
    """The head of a finished step's stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: UUID
    seq: int
    hash: str


class StepsAnchored(Fact):
    """Heads of finished steps, so that a truncated step stream shows in the run's."""

    stream = "run"
    kind: Literal["steps.anchored"] = "steps.anchored"
    anchors: tuple[StepAnchor, ...]


class ReservationsCharged(Fact):
    """Calls in flight of steps that have ended: their outcome is unknown, so they are charged as reserved."""

    stream = "run"
    kind: Literal["reservations.charged"] = "reservations.charged"
    charged_microusd: dict[UUID, int]
    """step → micro-dollars."""


class ReservationsReturned(Fact):
    """Answers that came when their step had let go of the call: what was charged beyond their cost is given back."""

    stream = "run"
    kind: Literal["reservations.returned"] = "reservations.returned"
    returned_microusd: dict[UUID, int]
    """step → micro-dollars; negative: what they cost beyond what was charged."""
    calls: tuple[UUID, ...]


class RunTold(Fact):
    """A person told the run something."""

    stream = "run"
    kind: Literal["run.told"] = "run.told"
    message: str


class RunFinished(Fact):
    """The run ended; nothing follows in any of its streams but late settlements."""

    stream = "run"
    kind: Literal["run.finished"] = "run.finished"
    outcome: RunOutcome
    reason: str = ""


# --- a step's stream --------------------------------------------------------------------------------------------------


class StepForked(Fact):
    """An agent of a fork goes on from a turn of another run: what was said before is taken over, and not paid again."""

    stream = "step"
    kind: Literal["step.forked"] = "step.forked"
    origin: Origin
    """The last row that was taken over."""
    facts: tuple["Said", ...]
    """What was said there, in order."""


class StepClaimed(Fact):
    """A worker holds the step; every later write of an older epoch is refused."""

    stream = "step"
    kind: Literal["step.claimed"] = "step.claimed"
    holder: str
    takeover: bool = False
    """The lease of the claim before had expired."""
    crashes: int = 0


class StepReleased(Fact):
    """The worker handed the step back unfinished: a deploy, a pause, a retry, a newer version's facts, a full disk."""

    stream = "step"
    kind: Literal["step.released"] = "step.released"
    reason: Literal["drain", "pause", "retry", "foreign", "storage", "approved"]
    """Only a `retry` uses one up."""
    detail: str = ""
    run_after_seconds: float = 0.0


class StepRecovered(Fact):
    """The watch loop found the lease expired and put the step back through the front door."""

    stream = "step"
    kind: Literal["step.recovered"] = "step.recovered"
    crashes: int
    solo: bool = False
    cause: Literal["crash", "outage"] = "crash"
    """Only a crash counts; an outage of Postgres is nobody's."""
    cut_off: tuple[int, ...] = ()
    """Epochs whose loss does not count as a crash any more: their workers had only been cut off, and came back."""


class StepWaiting(Fact):
    """The step holds no worker until its signal or its time comes."""

    stream = "step"
    kind: Literal["step.waiting"] = "step.waiting"
    wait_id: UUID
    reason: WaitReason
    question: str
    options: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """`step:seq` of the journal rows that show why."""
    run_after: datetime | None = None
    child: Step | None = None
    """children: the colleague that is asked; the next round appends it, and answers for it when it has ended."""
    tool_use_id: str | None = None
    """The call that the answer is for."""
    guards: tuple[Guarded, ...] = ()
    """What a person approves by letting it go on."""
    cause: str = ""
    """Equal for questions of one run that one answer settles."""
    expires_after_seconds: float | None = None
    """When nobody has answered by then, it is as if `expires_then` had been; None: it waits for ever."""
    expires_then: str = ""
    """`fail`, or one of the options."""
    wants_fix: bool = False
    """The answer has to be a repair of one line, see `line_fixes`."""


class SignalReceived(Fact):
    """The next claimant folded in what an outsider answered."""

    stream = "step"
    kind: Literal["signal.received"] = "signal.received"
    wait_id: UUID
    choice: str
    body: JsonValue = None
    by: str = ""
    """Who says they answered: a name, or `expiry`."""
    sent_at: datetime | None = None
    """When they did, by the database's clock."""


class StepTold(Fact):
    """The agent has heard what people told the run; from here on it is part of its conversation."""

    stream = "step"
    kind: Literal["step.told"] = "step.told"
    messages: tuple[str, ...]
    run_seq: int
    """Of the newest of them in the run's stream."""


class StateValue(BaseModel):
    """A value of shared state as it was when the agent was shown it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    value: JsonValue
    version: int
    """0: nobody has written it."""
    seen_version: int
    """What the agent had been shown before."""
    by: str = ""
    """Key of the step that replaced it; empty where it was no step's."""


class StateRefreshed(Fact):
    """Shared state that the agent had read was replaced: its conversation has the newer values from here on."""

    stream = "step"
    kind: Literal["state.refreshed"] = "state.refreshed"
    values: tuple[StateValue, ...]


class OutputsEvicted(Fact):
    """The window fills: from here on these results are shown as a reference; what they were stays in the journal."""

    stream = "step"
    kind: Literal["outputs.evicted"] = "outputs.evicted"
    tool_use_ids: tuple[str, ...]
    tokens: int
    """About as many as the conversation had."""


class ModelRequested(Fact):
    """A reservation was made and a call to a model is in flight."""

    stream = "step"
    kind: Literal["model.requested"] = "model.requested"
    call_id: UUID
    turn: int
    model: str
    tier: str
    routed_because: str
    prompt_hash: str
    max_tokens: int
    reserved_microusd: int
    reads: tuple[str, ...] = ()
    """What the context read: `memory:<id>@<version>`, `state:<key>@<version>`, `result:<step key>`, `role:<hash>`."""
    batched: bool = False
    """It goes through the batch API under its call id, at half price, and outlives the claim that made it."""
    summarises: int = 0
    """As many of the oldest turns its answer will stand for; 0: it is a turn, and not a call for a summary."""


class BatchSubmitted(Fact):
    """The batch API has taken the call: whoever claims the step next asks for its answer there."""

    stream = "step"
    kind: Literal["batch.submitted"] = "batch.submitted"
    call_id: UUID
    batch_id: str


class Usage(BaseModel):
    """Tokens of one call as the server counted them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_hour_tokens: int = 0
    """Those of `cache_write_tokens` that are kept for an hour instead of five minutes, which costs more."""


class ModelResponded(Fact):
    """The answer; it is never paid for again."""

    stream = "step"
    kind: Literal["model.responded"] = "model.responded"
    call_id: UUID
    model: str
    content: tuple[dict[str, JsonValue], ...]
    """Content blocks in the Messages format."""
    stop_reason: str
    usage: Usage
    cost_microusd: int
    duration_ms: int = 0
    message_id: str = ""
    """The server's own id of it."""
    cache_miss: str = ""
    """Why the server could not read what it had cached of the prompt before; empty: it could, or does not say."""
    summarises: int = 0
    """From here on it stands for as many of the step's oldest turns; 0: it is a turn."""


class ModelFailed(Fact):
    """The call gave no usable answer; what it cost is settled."""

    stream = "step"
    kind: Literal["model.failed"] = "model.failed"
    call_id: UUID
    error: str
    retryable: bool
    cost_microusd: int


class CallAbandoned(Fact):
    """A call of an earlier epoch whose outcome is unknown: it stays charged at its reservation."""

    stream = "step"
    kind: Literal["call.abandoned"] = "call.abandoned"
    call_id: UUID
    charged_microusd: int


class ToolStarted(Fact):
    """An effect is about to happen."""

    stream = "step"
    kind: Literal["tool.started"] = "tool.started"
    tool_use_id: str
    tool: str
    effect: Literal["pure", "idempotent", "effectful"]
    key: str
    """The idempotency key given to the tool."""
    timeout_seconds: float


class ToolFinished(Fact):
    """What the tool gave back to the model."""

    stream = "step"
    kind: Literal["tool.finished"] = "tool.finished"
    tool_use_id: str
    tool: str
    arguments: dict[str, JsonValue]
    outcome: Literal["ok", "error"]
    content: str
    error_type: str = ""
    commit: str | None = None
    """Head of the attempt's workspace after an editing tool."""
    reads: tuple[str, ...] = ()
    duration_ms: int = 0


class TaskRequested(Fact):
    """A task of the user's own Celery app is about to be sent; what it may answer under."""

    stream = "step"
    kind: Literal["task.requested"] = "task.requested"
    task: str
    queue: str
    broker: str
    task_id: UUID
    """Of Celery; the same however often it is sent, and what an answer is taken under."""
    key: str
    """The idempotency key in its headers."""
    arguments_hash: str
    """SHA-256 of what it is called with; only a task that got exactly this may answer."""
    effect: Literal["idempotent", "effectful"]
    deadline_seconds: float


class TaskSent(Fact):
    """The broker has taken the message; how often it did so before is counted from these."""

    stream = "step"
    kind: Literal["task.sent"] = "task.sent"
    task_id: UUID
    sending: int
    """1 is the first; a message of which nobody knows whether it left is sent again under its number."""


class TaskReturned(Fact):
    """What came back; the result itself is in the `step.finished` that follows."""

    stream = "step"
    kind: Literal["task.returned"] = "task.returned"
    outcome: Literal["succeeded", "failed", "lost"]
    """lost: its worker says that it was cut off, and whether its effect happened is not known."""
    by: str
    """Who says so: the worker's name, or `client`."""
    detail: str = ""
    retries: int = 0
    """How often the task has retried itself."""
    duration_ms: int = 0
    result_hash: str = ""


class BreakerTripped(Fact):
    """The run repeats itself; a person is asked."""

    stream = "step"
    kind: Literal["breaker.tripped"] = "breaker.tripped"
    rule: str
    evidence: tuple[str, ...]
    detail: str
    cause: str = ""
    """Equal for trips of one run over the same failure."""


class StepFinished(Fact):
    """The step ended with a result or an error."""

    stream = "step"
    kind: Literal["step.finished"] = "step.finished"
    outcome: StepOutcome
    result: JsonValue = None
    error: str = ""
    commit: str | None = None
    """Commit that the step's workspace ended at; successors start from it."""
    artifacts: dict[str, str] = Field(default_factory=dict)
    """name → content hash."""
    patch: PlanPatch | None = None
    """What a planner appends to the graph."""
    label: str | None = None
    """The way that a branch takes."""
    approved: dict[str, str] | None = None
    """gate that was approved: step → hash of its arguments; what runs after a refusal (`settled`) needs no approval."""
    copied_from: Origin | None = None
    """A fork has taken it over: here nobody worked for it, and nothing was paid."""


# What is part of an agent's conversation, whoever held the step.
Said = Annotated[
    ModelResponded
    | ToolStarted
    | ToolFinished
    | StepTold
    | StateRefreshed
    | OutputsEvicted
    | StepWaiting
    | SignalReceived
    | BreakerTripped,
    Field(discriminator="kind"),
]
StepForked.model_rebuild()

RunFact = Annotated[
    RunSubmitted
    | RunQueued
    | RunStarted
    | PlanPatched
    | RunPaused
    | RunResumed
    | BudgetRaised
    | BudgetWarned
    | StepsSkipped
    | JoinsWon
    | StepsAnchored
    | ReservationsCharged
    | ReservationsReturned
    | RunTold
    | RunFinished,
    Field(discriminator="kind"),
]
StepFact = Annotated[
    StepForked
    | StepClaimed
    | StepReleased
    | StepRecovered
    | StepWaiting
    | SignalReceived
    | StepTold
    | StateRefreshed
    | OutputsEvicted
    | ModelRequested
    | BatchSubmitted
    | ModelResponded
    | ModelFailed
    | CallAbandoned
    | ToolStarted
    | ToolFinished
    | TaskRequested
    | TaskSent
    | TaskReturned
    | BreakerTripped
    | StepFinished,
    Field(discriminator="kind"),
]
AnyFact = Annotated[RunFact | StepFact, Field(discriminator="kind")]
KINDS: tuple[str, ...] = tuple(
    sorted(fact.model_fields["kind"].default for one in (RunFact, StepFact) for fact in get_args(get_args(one)[0]))
)
"""The kinds of all facts."""
_FACTS: TypeAdapter[AnyFact] = TypeAdapter(AnyFact)


def parse_fact(body: str, *, schema_version: int) -> AnyFact:
    """The fact in a journal body.

    Raises `NewerVersion` when the body is of a later schema than this code knows, `IllegalFact` when it is of none.
    """
    if schema_version > SCHEMA_VERSION:
        raise NewerVersion(
            f"Fact of schema {schema_version}; this code knows {SCHEMA_VERSION}: upgrade this process.",
            version=schema_version,
        )
    try:
        return _FACTS.validate_json(body)
    except ValidationError as error:
        raise IllegalFact(f"Not a fact: {body[:200]!r} ({error.error_count()} errors).") from error
