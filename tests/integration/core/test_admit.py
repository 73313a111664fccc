"""Admit: fills the pools' places, across runs and tenants, and queues heads only."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from chargehand.orchestrator.canvas import Chain, Chord, Pack, lines_of
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.supervisor.admit import SOLO, Admitted

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def heads(admitted: list[Admitted]) -> list[UUID]:
    return [chain.links[0].step_id for one in admitted for chain in lines_of(one.emissions)]


def test_nothing_is_queued_for_a_pool_without_a_live_process(house: "House") -> None:
    run_id = house.submit(script("a"))
    house.advance(run_id)
    assert house.admit() == []
    house.open_pool("research")
    house.execute("UPDATE pools SET seen_at = clock_timestamp() - interval '1 minute'")
    assert house.admit() == []
    assert house.statuses(run_id) == {"a": "ready"}


def test_a_pool_takes_half_as_much_again_as_it_has_slots(house: "House") -> None:
    house.open_pool("research", slots=4)
    run_id = house.submit(*(script(f"s{n}") for n in range(20)))
    house.advance(run_id)
    assert len(heads(house.admit())) == 6
    assert house.admit() == []


def test_a_fan_out_wider_than_its_pool_is_packed_and_each_pack_takes_one_place(house: "House") -> None:
    house.open_pool("research", slots=4)
    run_id = house.submit(*(script(f"s{n}") for n in range(400)), script("join", *(f"s{n}" for n in range(400))))
    house.advance(run_id)
    [admitted] = house.admit()
    assert [len(line.links) for line in admitted.emissions if isinstance(line, Pack)] == [25] * 6
    assert sum(status == "queued" for status in house.statuses(run_id).values()) == 150
    keys = {step_id(run_id, f"s{n}"): f"s{n}" for n in range(400)}
    # All but one of a pack's steps are over: it still has its place.
    for line in admitted.emissions:
        for link in line.links[1:]:
            house.run(run_id, keys[link.step_id])
    assert house.admit() == []


def test_a_fan_out_that_fits_is_not_packed(house: "House") -> None:
    house.open_pool("research", slots=10)
    run_id = house.submit(*(script(f"s{n}") for n in range(60)))
    house.advance(run_id)
    [admitted] = house.admit()
    assert all(isinstance(line, Chain) for line in admitted.emissions)


def test_a_script_that_begins_a_chain_is_not_packed(house: "House") -> None:
    house.open_pool("research", slots=1)
    run_id = house.submit(*(script(f"s{n}") for n in range(9)), *(script(f"t{n}", f"s{n}") for n in range(9)))
    house.advance(run_id)
    [admitted] = house.admit()
    assert [type(line) for line in admitted.emissions] == [Chain, Chain]


def test_only_heads_are_queued_and_followers_know_their_next(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"), script("c", "b"))
    assert house.statuses(run_id) == {"a": "queued", "b": "chained", "c": "chained"}
    rows = [house.row(run_id, key) for key in "abc"]
    assert [row.next_in_chain for row in rows] == [rows[1].id, rows[2].id, None]
    assert len({row.chain for row in rows}) == 1


def test_a_join_whose_predecessors_start_together_is_a_chord(house: "House") -> None:
    house.open_pool("research")
    run_id = house.submit(script("a"), script("b", "a"), script("x"), script("j", "b", "x"))
    house.advance(run_id)
    [admitted] = house.admit()
    [chord] = admitted.emissions
    assert isinstance(chord, Chord)
    assert sorted(len(chain.links) for chain in chord.header) == [1, 2]
    assert house.statuses(run_id)["j"] == "pending"


def test_a_join_that_arrives_in_parts_is_chains(house: "House") -> None:
    house.open_pool("research", slots=50)
    run_id = house.submit(script("a", pool="research"), script("b", pool="coding"), script("j", "a", "b"))
    house.advance(run_id)
    [first] = house.admit()
    house.open_pool("coding")
    [second] = house.admit()
    assert [type(one) for one in (*first.emissions, *second.emissions)] == [Chain, Chain]


def test_a_gate_follows_nobody_in_a_chain(house: "House") -> None:
    run_id = house.start(script("a"), Step(key="g", kind="gate", after=("a",)))
    assert house.statuses(run_id) == {"a": "queued", "g": "pending"}


def test_a_higher_priority_goes_first(house: "House") -> None:
    house.open_pool("research", slots=1)
    low = house.submit(*(script(f"s{n}") for n in range(4)))
    high = house.submit(script("a"), script("b"), priority=5)
    for run_id in (low, high):
        house.advance(run_id)
    assert {one.run_id for one in house.admit()} == {high}


def test_a_tenant_with_a_thousand_steps_does_not_starve_another(house: "House") -> None:
    house.open_pool("research", slots=3)
    crowd = house.submit(*(script(f"s{n}") for n in range(400)))
    other = house.submit(script("a"), script("b"), tenant=uuid4())
    for run_id in (crowd, other):
        house.advance(run_id)
    admitted = {one.run_id: lines_of(one.emissions) for one in house.admit()}
    assert len(admitted[crowd]) <= 5
    assert sum(len(line.links) for line in admitted[other]) == 2


def test_two_supervisors_at_once_queue_each_step_once(house: "House", threads: ThreadPoolExecutor) -> None:
    house.open_pool("research", slots=200)
    run_id = house.submit(*(script(f"s{n}") for n in range(60)))
    house.advance(run_id)
    queued = [head for admitted in threads.map(lambda _: house.admit(), range(6)) for head in heads(admitted)]
    queued += heads(house.admit())
    assert len(queued) == len(set(queued)) == 60


def test_a_step_that_is_not_due_is_not_queued(house: "House") -> None:
    house.open_pool("research")
    run_id = house.submit(script("a"))
    house.advance(run_id)
    house.execute(
        "UPDATE steps SET run_after = clock_timestamp() + interval '1 hour' WHERE run = :run", {"run": run_id}
    )
    assert house.admit() == []


def test_a_step_that_crashed_too_often_goes_to_the_solo_pool(house: "House") -> None:
    house.open_pool("research")
    run_id = house.submit(script("a"))
    house.advance(run_id)
    house.execute("UPDATE steps SET solo = true WHERE run = :run", {"run": run_id})
    assert house.admit() == []
    house.open_pool(SOLO, slots=1)
    [admitted] = house.admit()
    assert [chain.links[0].pool for chain in lines_of(admitted.emissions)] == [SOLO]
