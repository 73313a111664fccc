"""Who goes next: priority first, then fair between tenants, then in order."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.admission import (
    MOST_IN_PACK,
    Candidate,
    Room,
    choose,
    room,
    with_their_share,
)

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


def for_anybody(places: int) -> Room:
    return Room(anybody=places, newcomers=places)


def test_a_pool_is_filled_up_to_half_as_much_again_as_it_has_slots() -> None:
    assert room(slots=8, under_way=3).anybody == 9
    assert room(slots=1, under_way=0).anybody == 2
    assert room(slots=0, under_way=0) == Room()
    assert room(slots=1, under_way=9).anybody == 0
    assert room(slots=1, under_way=2) == Room(newcomers=1, slots=1)


def test_a_pool_is_not_filled_again_before_half_of_what_was_ahead_is_taken() -> None:
    assert [room(slots=8, under_way=taken).anybody for taken in (12, 11, 10, 9)] == [0, 0, 2, 3]


def test_a_full_pool_has_room_for_newcomers_up_to_twice_its_slots() -> None:
    assert room(slots=8, under_way=12) == Room(anybody=0, newcomers=4, slots=8)
    assert room(slots=8, under_way=16).newcomers == room(slots=8, under_way=20).newcomers == 0


def test_a_newcomer_is_admitted_to_a_pool_that_is_full_of_a_crowd_and_the_crowd_is_not() -> None:
    crowd = [candidate(number, tenant=1) for number in range(1, 100)]
    late = [candidate(number, tenant=2, at=9) for number in range(200, 203)]
    chosen = choose([*crowd, *late], room=room(slots=8, under_way=12), under_way={UUID(int=1): 12}).chosen
    assert [one.tenant.int for one in chosen] == [2, 2, 2]


def test_a_newcomer_gets_no_more_than_its_share_of_a_full_pool() -> None:
    late = [candidate(number, tenant=2) for number in range(200, 220)]
    chosen = choose(late, room=Room(newcomers=8, slots=8), under_way={UUID(int=1): 10}).chosen
    assert len(chosen) == 4


def test_a_newcomer_of_low_priority_has_its_share_beside_a_crowd_of_high_priority() -> None:
    crowd = [candidate(number, tenant=1, priority=5) for number in range(1, 100)]
    late = candidate(200, tenant=2)
    chosen = choose([*crowd, late], room=room(slots=8, under_way=12), under_way={UUID(int=1): 12}).chosen
    assert chosen == (late,)


def test_only_who_may_be_admitted_is_read_while_a_pool_is_full() -> None:
    loads = {UUID(int=1): 8, UUID(int=2): 3, UUID(int=3): 1}
    assert with_their_share(loads, slots=8) == {UUID(int=1), UUID(int=2)}
    assert with_their_share({UUID(int=1): 3}, slots=8) == frozenset()
    # The second has less than half, which it may have beside the first.
    assert with_their_share({UUID(int=1): 11, UUID(int=2): 4}, slots=10) == {UUID(int=1)}


@given(st.integers(1, 12), st.integers(1, 100))
def test_a_newcomer_goes_next_with_half_the_slots_number_of_a_crowd_before_it(slots: int, crowd: int) -> None:
    waiting = [candidate(number, tenant=1) for number in range(crowd)]
    first = choose(waiting, room=room(slots=slots, under_way=0), under_way={}).chosen
    late = candidate(10**6, tenant=2, at=9)
    rest = [one for one in waiting if one not in first]
    then = choose(
        [*rest, late], room=room(slots=slots, under_way=len(first)), under_way={UUID(int=1): len(first)}
    ).chosen
    # In the queue are those that no slot has taken.
    assert then[0] == late
    assert len(first) - slots <= (slots + 1) // 2


def test_a_crowd_does_not_starve_another_tenant() -> None:
    crowd = [candidate(number, tenant=1) for number in range(1, 100)]
    late = [candidate(number, tenant=2, at=9) for number in range(200, 203)]
    chosen = choose([*crowd, *late], room=for_anybody(6), under_way={}).chosen
    assert Counter(one.tenant.int for one in chosen) == {1: 3, 2: 3}


def test_places_that_do_not_divide_evenly_go_round() -> None:
    tenants = [UUID(int=number) for number in range(1, 4)]
    waiting = [candidate(number, tenant=number % 3 + 1) for number in range(27)]

    given: list[UUID] = []
    served: dict[UUID, float] = {}
    for moment in range(1, 7):
        # Each has two places, and the third of the seven is free again.
        (chosen,) = choose(waiting, room=for_anybody(1), under_way=dict.fromkeys(tenants, 2), last_served=served).chosen
        served[chosen.tenant] = float(moment)
        given.append(chosen.tenant)

    assert given == [*tenants, *tenants]


def test_what_is_under_way_counts() -> None:
    mine = [candidate(number, tenant=1) for number in range(1, 10)]
    others = [candidate(number, tenant=2) for number in range(20, 30)]
    chosen = choose([*mine, *others], room=for_anybody(4), under_way={UUID(int=1): 4}).chosen
    assert {one.tenant.int for one in chosen} == {2}


@given(candidates, st.integers(0, 70), loads)
def test_a_choice_is_as_large_as_it_may_be_and_names_nobody_twice(
    offered: list[Candidate], limit: int, under_way: dict[UUID, int]
) -> None:
    chosen = choose(offered, room=for_anybody(limit), under_way=under_way).chosen
    assert len(chosen) == min(limit, len(offered))
    assert len({one.step_id for one in chosen}) == len(chosen)
    assert set(chosen) <= set(offered)


@given(candidates, st.integers(0, 70), loads)
def test_nobody_goes_before_a_higher_priority(offered: list[Candidate], limit: int, under_way: dict[UUID, int]) -> None:
    chosen = choose(offered, room=for_anybody(limit), under_way=under_way).chosen
    assert [one.priority for one in chosen] == sorted((one.priority for one in offered), reverse=True)[:limit]


@given(candidates, st.integers(0, 70))
def test_between_two_tenants_that_both_wait_the_difference_stays_within_one(
    offered: list[Candidate], limit: int
) -> None:
    offered = [one for one in offered if one.priority == 0]
    chosen = choose(offered, room=for_anybody(limit), under_way={}).chosen
    got = Counter(one.tenant for one in chosen)
    unserved = {one.tenant for one in set(offered) - set(chosen)}
    for hungry in unserved:
        assert all(got[tenant] - got[hungry] <= 1 for tenant in got)


@given(candidates, st.integers(0, 70), loads)
def test_a_tenants_steps_go_in_the_order_of_submission_then_plan(
    offered: list[Candidate], limit: int, under_way: dict[UUID, int]
) -> None:
    chosen = choose(offered, room=for_anybody(limit), under_way=under_way).chosen
    for tenant in {one.tenant for one in offered}:
        own = [one for one in offered if one.tenant == tenant]
        own.sort(key=lambda one: (-one.priority, one.submitted_at, one.run_id, one.ordinal))
        mine = [one for one in chosen if one.tenant == tenant]
        assert mine == own[: len(mine)]


# --- packs ------------------------------------------------------------------------------------------------------------


def test_while_there_is_a_place_for_each_nothing_is_packed() -> None:
    offered = [candidate(number) for number in range(1, 9)]
    choice = choose(offered, room=for_anybody(8), under_way={}, packable={one.step_id for one in offered})
    assert (len(choice.chosen), choice.pack_size) == (8, 1)


def test_a_large_fan_out_shares_places_up_to_a_full_pack() -> None:
    offered = [candidate(number) for number in range(1, 1001)]
    choice = choose(offered, room=for_anybody(8), under_way={}, packable={one.step_id for one in offered})
    assert (len(choice.chosen), choice.pack_size) == (8 * MOST_IN_PACK, MOST_IN_PACK)


def test_a_tenant_with_packs_gets_no_more_places_than_another() -> None:
    crowd = [candidate(number, tenant=1) for number in range(1, 500)]
    agents = [candidate(number, tenant=2, run=2, at=9) for number in range(1000, 1010)]
    choice = choose([*crowd, *agents], room=for_anybody(8), under_way={}, packable={one.step_id for one in crowd})
    chosen = Counter(one.tenant.int for one in choice.chosen)
    assert chosen == {1: 4 * MOST_IN_PACK, 2: 4}


def test_a_pack_is_of_one_run() -> None:
    offered = [candidate(number, run=number % 2) for number in range(1, 200)]
    choice = choose(offered, room=for_anybody(2), under_way={}, packable={one.step_id for one in offered})
    assert len({one.run_id for one in choice.chosen[:MOST_IN_PACK]}) == 1
