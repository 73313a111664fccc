"""The run that follows a run, to keep what it taught: facts are extracted, compared with what is believed, and kept.

A run of its own, so that every model call belongs to a claimed step under a budget of its own, nobody waits for it, and
whatever dies comes back as anywhere else. It is asked for in the commit that ends the run that it is about.
"""

from decimal import Decimal
from uuid import UUID

from sqlalchemy.orm import Session

from chargehand.orchestrator import runs
from chargehand.orchestrator.plan import Branch, Plan, Step
from chargehand.orchestrator.requests import RunRequest, microusd
from chargehand.orchestrator.settings import Settings

# Two of one tenant at once could each keep what contradicts the other.
CONCURRENCY_KEY = "chargehand:consolidation"
# Whoever waits for a result goes first.
PRIORITY = -10
# Is not worth a replanner, and what has hung for so long is not missed.
DEADLINE_SECONDS = 3_600.0
PAIRS, NONE = "pairs", "none"


def budget_of(asked_usd: str | Decimal | None, settings: Settings) -> int | None:
    """What may be spent on it, in micro-dollars; None: nothing is kept. Raises `InvalidBudget`."""
    given = settings.consolidate_budget_usd if asked_usd is None else asked_usd
    return None if str(given) in {"", "0"} else microusd(given)


def plan(run_id: UUID) -> Plan:
    """Gather what was said, extract facts, find what is near each of them, judge the pairs, and believe."""
    steps = (
        Step(key="gather", kind="script", script="gather_testimony", arguments={"run": str(run_id)}),
        Step(
            key="extract",
            kind="agent",
            role="extractor",
            instruction="Extract the facts that are worth knowing in later runs from the statements in your inputs.",
            after=("gather",),
        ),
        Step(key="propose", kind="script", script="propose_facts", arguments={"run": str(run_id)}, after=("extract",)),
        Step(key="pair", kind="script", script="pair_facts", after=("propose",)),
        Step(
            key="whether",
            kind="branch",
            after=("pair",),
            branch=Branch(labels=(PAIRS, NONE), script="has_pairs"),
        ),
        Step(
            key="judge",
            kind="agent",
            role="arbiter",
            instruction="Judge each pair in your inputs.",
            after=("whether", "pair"),
            when={"whether": PAIRS},
        ),
        Step(
            key="believe",
            kind="script",
            script="believe_facts",
            arguments={"run": str(run_id)},
            after=("whether", "judge"),
        ),
    )
    return Plan.of(steps)


def request(run_id: UUID, *, budget_microusd: int) -> RunRequest:
    """The run that consolidates `run_id`; asked for twice, it is made once."""
    return RunRequest(
        run_id=runs.new_run_id(),
        goal=f"Keep what run {run_id} has taught",
        plan=plan(run_id),
        budget_microusd=budget_microusd,
        priority=PRIORITY,
        idempotency_key=key_of(run_id),
        concurrency_key=CONCURRENCY_KEY,
        deadline_seconds=DEADLINE_SECONDS,
    )


def key_of(run_id: UUID) -> str:
    """The idempotency key of the run that consolidates this one."""
    return f"chargehand:consolidate:{run_id}"


def ask(session: Session, tenant: UUID, run_id: UUID, *, budget_microusd: int) -> None:
    """Ask, in the caller's transaction, for the run that consolidates this one."""
    runs.enqueue(session, tenant, request(run_id, budget_microusd=budget_microusd))
