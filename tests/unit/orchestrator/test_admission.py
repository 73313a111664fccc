"""Who goes next: priority first, then fair between tenants, then in order."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.admission import MOST_IN_PACK, WINDOW_PER_SLOT, Candidate, choose, places

START = datetime(2026, 1, 1, tzinfo=UTC)


def candidate(number: int, *, tenant: int = 1, run: int = 1, priority: int = 0, at: int = 0) -> Candidate:
    return Candidate(
        step_id=UUID(int=number),
        run_id=UUID(int=run),
        tenant=UUID(int=tenant),
        priority=priority,
        submitted_at=START + timedelta(seconds=at),
        ordinal=number,
    )


candidates = st.lists(
    st.builds(
        candidate,
        st.integers(0, 10**6),
        tenant=st.integers(1, 4),
        run=st.integers(1, 5),
        priority=st.integers(-1, 2),
        at=st.integers(0, 3),
    ),
    max_size=60,
    unique_by=lambda one: one.step_id,
)
loads = st.dictionaries(st.integers(1, 4).map(lambda number: UUID(int=number)), st.integers(0, 20))


def test_places_are_twice_the_slots_less_what_is_under_way() -> None:
    assert places(slots=5, under_way=3) == WINDOW_PER_SLOT * 5 - 3
    assert places(slots=1, under_way=9) == 0


def test_a_crowd_does_not_starve_another_tenant() -> None:
    crowd = [candidate(number, tenant=1) for number in range(1, 100)]
    late = [candidate(number, tenant=2, at=9) for number in range(200, 203)]
    chosen = choose([*crowd, *late], limit=6, under_way={}).chosen
    assert Counter(one.tenant.int for one in chosen) == {1: 3, 2: 3}


def test_places_that_do_not_divide_evenly_go_round() -> None:
    tenants = [UUID(int=number) for number in range(1, 4)]
    waiting = [candidate(number, tenant=number % 3 + 1) for number in range(27)]

    given: list[UUID] = []
    served: dict[UUID, float] = {}
    for moment in range(1, 7):
        # Each has two places, and the third of the seven is free again.
        (chosen,) = choose(waiting, limit=1, under_way=dict.fromkeys(tenants, 2), last_served=served).chosen
        served[chosen.tenant] = float(moment)
        given.append(chosen.tenant)

    assert given == [*tenants, *tenants]


def test_what_is_under_way_counts() -> None:
    mine = [candidate(number, tenant=1) for number in range(1, 10)]
    others = [candidate(number, tenant=2) for number in range(20, 30)]
    chosen = choose([*mine, *others], limit=4, under_way={UUID(int=1): 4}).chosen
    assert {one.tenant.int for one in chosen} == {2}


@given(candidates, st.integers(0, 70), loads)
def test_a_choice_is_as_large_as_it_may_be_and_names_nobody_twice(
    offered: list[Candidate], limit: int, under_way: dict[UUID, int]
) -> None:
    chosen = choose(offered, limit=limit, under_way=under_way).chosen
    assert len(chosen) == min(limit, len(offered))
    assert len({one.step_id for one in chosen}) == len(chosen)
    assert set(chosen) <= set(offered)


@given(candidates, st.integers(0, 70), loads)
def test_nobody_goes_before_a_higher_priority(offered: list[Candidate], limit: int, under_way: dict[UUID, int]) -> None:
    chosen = choose(offered, limit=limit, under_way=under_way).chosen
    assert [one.priority for one in chosen] == sorted((one.priority for one in offered), reverse=True)[:limit]


@given(candidates, st.integers(0, 70))
def test_between_two_tenants_that_both_wait_the_difference_stays_within_one(
    offered: list[Candidate], limit: int
) -> None:
    offered = [one for one in offered if one.priority == 0]
    chosen = choose(offered, limit=limit, under_way={}).chosen
    got = Counter(one.tenant for one in chosen)
    unserved = {one.tenant for one in set(offered) - set(chosen)}
    for hungry in unserved:
        assert all(got[tenant] - got[hungry] <= 1 for tenant in got)


@given(candidates, st.integers(0, 70), loads)
def test_a_tenants_steps_go_in_the_order_of_submission_then_plan(
    offered: list[Candidate], limit: int, under_way: dict[UUID, int]
) -> None:
    chosen = choose(offered, limit=limit, under_way=under_way).chosen
    for tenant in {one.tenant for one in offered}:
        own = [one for one in offered if one.tenant == tenant]
        own.sort(key=lambda one: (-one.priority, one.submitted_at, one.run_id, one.ordinal))
        mine = [one for one in chosen if one.tenant == tenant]
        assert mine == own[: len(mine)]


# --- packs ------------------------------------------------------------------------------------------------------------


def test_while_there_is_a_place_for_each_nothing_is_packed() -> None:
    offered = [candidate(number) for number in range(1, 9)]
    choice = choose(offered, limit=8, under_way={}, packable={one.step_id for one in offered})
    assert (len(choice.chosen), choice.pack_size) == (8, 1)


def test_a_large_fan_out_shares_places_up_to_a_full_pack() -> None:
    offered = [candidate(number) for number in range(1, 1001)]
    choice = choose(offered, limit=8, under_way={}, packable={one.step_id for one in offered})
    assert (len(choice.chosen), choice.pack_size) == (8 * MOST_IN_PACK, MOST_IN_PACK)


def test_a_tenant_with_packs_gets_no_more_places_than_another() -> None:
    crowd = [candidate(number, tenant=1) for number in range(1, 500)]
    agents = [candidate(number, tenant=2, run=2, at=9) for number in range(1000, 1010)]
    choice = choose([*crowd, *agents], limit=8, under_way={}, packable={one.step_id for one in crowd})
    chosen = Counter(one.tenant.int for one in choice.chosen)
    assert chosen == {1: 4 * MOST_IN_PACK, 2: 4}


def test_a_pack_is_of_one_run() -> None:
    offered = [candidate(number, run=number % 2) for number in range(1, 200)]
    choice = choose(offered, limit=2, under_way={}, packable={one.step_id for one in offered})
    assert len({one.run_id for one in choice.chosen[:MOST_IN_PACK]}) == 1
