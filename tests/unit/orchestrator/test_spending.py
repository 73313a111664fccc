"""Spending far above plan: what trips, and what never does."""

import pytest

from chargehand.orchestrator.spending import CHEAP_MICROUSD, LEAST_PEERS, TIMES_THE_PLAN, Peers, above_plan

CAP = 2_000_000
USUAL = 50_000
PEERS = Peers(costs_microusd=(USUAL,) * LEAST_PEERS, cap_microusd=CAP)
FAR_ABOVE = USUAL * TIMES_THE_PLAN + 1


def test_a_step_that_cost_many_times_what_its_peers_needed_trips_and_says_by_how_much() -> None:
    trip = above_plan(FAR_ABOVE, PEERS, ["s:3", "s:9"])
    assert trip is not None
    assert (trip.rule, trip.evidence) == ("above_plan", ("s:3", "s:9"))
    assert trip.detail == (
        "0.4000 USD spent without a result, 8 times what the other 3 steps of its role needed "
        "(0.0500 USD each, in the middle)."
    )


@pytest.mark.parametrize(
    ("spent", "peers"),
    [
        (FAR_ABOVE - 1, PEERS),
        (FAR_ABOVE, Peers(costs_microusd=(USUAL,) * (LEAST_PEERS - 1), cap_microusd=CAP)),
        # What the run can afford calls nobody.
        (FAR_ABOVE, Peers(costs_microusd=PEERS.costs_microusd, cap_microusd=100 * CAP)),
        (CHEAP_MICROUSD - 1, Peers(costs_microusd=(1, 1, 1), cap_microusd=CHEAP_MICROUSD)),
        (0, Peers()),
    ],
)
def test_what_is_within_the_plan_or_cheap_or_without_peers_never_trips(spent: int, peers: Peers) -> None:
    assert above_plan(spent, peers, []) is None


def test_one_dear_peer_does_not_move_the_plan() -> None:
    assert above_plan(FAR_ABOVE, Peers(costs_microusd=(USUAL, USUAL, USUAL, CAP), cap_microusd=CAP), []) is not None
