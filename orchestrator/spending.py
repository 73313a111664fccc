"""Whether a step has spent far above plan: much more than its peers needed, and a share of the budget that hurts; pure.

The plan of a step's cost is what steps of its role have needed in this run. Without peers there is none, and the step
is bounded by its turns and by the budget alone. Not covered: a role all of whose steps are dear, and a run whose steps
are many instead of dear; `budget.warning` tells of those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from chargehand.orchestrator.breaker import Trip

ABOVE_PLAN = "above_plan"
# Less than a cent is nobody's time, whatever the others cost; and nothing is asked of the database before.
CHEAP_MICROUSD = 10_000
# So many steps of the role must have ended well before there is a plan: of two, one may be the odd one.
LEAST_PEERS = 3
# A large file makes a step three or four times as dear as the others; this is something else.
TIMES_THE_PLAN = 8
# Of the run's budget: below this the run can afford it, and a person is not called.
SHARE_OF_BUDGET = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Peers:
    """What a step's spending is compared with."""

    costs_microusd: tuple[int, ...] = ()
    """Of the run's other steps of its role that have succeeded and cost something."""
    cap_microusd: int = 0
    """The run's budget."""


def above_plan(spent_microusd: int, peers: Peers, evidence: Sequence[str]) -> Trip | None:
    """The trip of a step that has spent so much and is not done; None while it is within the plan.

    `evidence`: `step:seq` of what it paid for.
    """
    if spent_microusd < CHEAP_MICROUSD or len(peers.costs_microusd) < LEAST_PEERS:
        return None
    planned = median(peers.costs_microusd)
    if (
        not planned
        or spent_microusd <= planned * TIMES_THE_PLAN
        or spent_microusd < peers.cap_microusd * SHARE_OF_BUDGET
    ):
        return None
    return Trip(
        rule=ABOVE_PLAN,
        detail=(
            f"{_usd(spent_microusd)} spent without a result, {spent_microusd / planned:.0f} times what the other "
            f"{len(peers.costs_microusd)} steps of its role needed ({_usd(planned)} each, in the middle)."
        ),
        evidence=tuple(evidence),
    )


def _usd(microusd: float) -> str:
    return f"{microusd / 1_000_000:.4f} USD"
