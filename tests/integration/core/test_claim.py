"""A claim: one winner, and the fence moves with it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from chargehand.orchestrator import steps
from chargehand.orchestrator.errors import LeaseLost, NothingToClaim
from chargehand.orchestrator.facts import (
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    StepFinished,
    StepReleased,
    StepWaiting,
    ToolStarted,
)
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.turns import StepRecorder

if TYPE_CHECKING:
    from tests.conftest import WaitUntil
    from tests.integration.core.conftest import House

DONE = StepFinished(outcome="succeeded")


def script(key: str, *after: str) -> Step:
    return Step(key=key, kind="script", script="work", after=after)


def test_second_delivery_of_a_claimed_step_finds_nothing(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a")

    with pytest.raises(NothingToClaim, match="is running") as refused:
        house.claim(run_id, "a")

    assert not refused.value.ended


def test_a_late_delivery_of_a_finished_step_says_that_it_has_ended(house: "House") -> None:
    run_id = house.start(script("a"))
    house.run(run_id, "a")

    with pytest.raises(NothingToClaim, match="is succeeded") as refused:
        house.claim(run_id, "a")

    assert refused.value.ended


def test_of_many_deliveries_at_once_one_wins(house: "House", threads: ThreadPoolExecutor) -> None:
    run_id = house.start(script("a"))

    def deliver(_: int) -> bool:
        try:
            house.claim(run_id, "a")
        except NothingToClaim:
            return False
        return True

    assert sum(threads.map(deliver, range(24))) == 1
    assert house.row(run_id, "a").epoch == 1


@pytest.mark.parametrize(
    "status", ["pending", "ready", "chained", "running", "waiting", "succeeded", "failed", "skipped"]
)
def test_only_a_queued_step_is_claimed_whatever_its_lease(house: "House", status: str) -> None:
    # A lost lease goes through recovery, which counts it: a second door here never marked a step that kills workers.
    run_id = house.start(script("a"))
    house.execute(
        "UPDATE steps SET status = :status, lease_until = clock_timestamp() - interval '1 s' WHERE run = :run",
        {"status": status, "run": run_id},
    )
    with pytest.raises(NothingToClaim):
        house.claim(run_id, "a")


def test_a_step_nobody_knows_is_not_claimed(house: "House") -> None:
    with pytest.raises(NothingToClaim, match="unknown"):
        house.claim(uuid4(), "a")


def test_the_claim_itself_moves_the_fence(house: "House") -> None:
    # Were the fence moved only by the first write after a claim, the zombie's finish would still get in here.
    run_id = house.start(script("a"))
    zombie = house.claim(run_id, "a")

    successor = house.take_over(run_id, "a")

    with pytest.raises(LeaseLost, match="epoch 1 is over"):
        zombie.finish(DONE)
    assert house.kinds(run_id, "a") == ["step.claimed", "step.recovered", "step.claimed"]
    assert (successor.claim.epoch, successor.seq) == (2, 3)
    successor.finish(DONE)
    assert house.drift(run_id) == []


# Each statement by which the holder of a step writes to it.
WRITES = ["finish", "finish of a pack", "release", "wait", "signal", "request", "respond", "abandon", "note"]


@pytest.mark.parametrize("knows_the_row", [False, True], ids=["behind", "where the next row belongs"])
@pytest.mark.parametrize("write", WRITES)
def test_every_write_of_a_zombie_is_refused(house: "House", write: str, knows_the_row: bool) -> None:
    run_id = house.start(script("a"))
    zombie = house.claim(run_id, "a")
    recorder = StepRecorder(house.connections, zombie, lease_seconds=60)
    call_id, wait_id = uuid4(), steps.new_wait_id()
    if write in {"respond", "abandon"}:
        recorder.request([], requested(call_id))
    successor = house.take_over(run_id, "a")
    if write == "signal":
        house.execute(
            "INSERT INTO signals (tenant, run, step, wait_id, choice) VALUES (:tenant, :run, :step, :wait, 'retry')",
            {"tenant": house.tenant, "run": run_id, "step": zombie.claim.step_id, "wait": wait_id},
        )
    if knows_the_row:
        # The epoch alone refuses it.
        zombie.seq = successor.seq
    before, drawn, rings = house.row(run_id, "a"), house.budget(run_id).drawn_microusd, house.rings(run_id)
    asks = StepWaiting(wait_id=wait_id, reason="human", question="?", options=("retry",))
    started = ToolStarted(tool_use_id="1", tool="t", effect="pure", key="k", timeout_seconds=1)
    failed = ModelFailed(call_id=call_id, error="cut", retryable=True, cost_microusd=0)
    writes: dict[str, Callable[[], object]] = {
        "finish": lambda: zombie.finish(DONE),
        "release": lambda: zombie.release(StepReleased(reason="drain")),
        "wait": lambda: zombie.wait(asks),
        "signal": lambda: zombie.fold_signal(wait_id),
        "request": lambda: recorder.request([], requested(call_id)),
        "respond": lambda: recorder.respond(failed),
        "abandon": lambda: recorder.abandon(CallAbandoned(call_id=call_id, charged_microusd=5)),
        "note": lambda: recorder.tool_started(started),
    }

    if write == "finish of a pack":
        assert steps.finish_many(house.connections, [(zombie, DONE)]) == set()
    else:
        with pytest.raises(LeaseLost, match="epoch 1 is over"):
            writes[write]()

    after = house.row(run_id, "a")
    for column in ("head_seq", "status", "epoch", "reserved_microusd", "spent_microusd", "allotment_microusd"):
        assert getattr(after, column) == getattr(before, column), column
    assert (house.rings(run_id), house.budget(run_id).drawn_microusd) == (rings, drawn)
    assert house.kinds(run_id, "a")[-1] == "step.claimed"


def requested(call_id: UUID) -> ModelRequested:
    return ModelRequested(
        call_id=call_id,
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=5,
    )


def test_a_claim_without_its_journal_row_would_let_the_zombie_write_the_same_row(house: "House") -> None:
    # The old way, shown: the fence in the table alone leaves the journal's next row free for two writers.
    run_id = house.start(script("a"))
    zombie = house.claim(run_id, "a")
    house.execute("UPDATE steps SET epoch = epoch + 1 WHERE run = :run", {"run": run_id})
    assert house.row(run_id, "a").head_seq == zombie.seq
    # The claim as it is takes the row.
    assert house.take_over(run_id, "a").seq > zombie.seq


def test_epoch_counts_claims_and_never_kills(house: "House") -> None:
    run_id = house.start(script("a"))
    for _ in range(6):
        house.claim(run_id, "a").release(StepReleased(reason="drain"))
        house.admit()

    row = house.row(run_id, "a")

    assert (row.epoch, row.crashes, row.solo, row.status) == (6, 0, False, "queued")


def test_taking_over_an_expired_lease_counts_as_a_crash(house: "House") -> None:
    run_id = house.start(script("a"))
    house.claim(run_id, "a")

    taken = house.take_over(run_id, "a").claim

    assert (taken.epoch, taken.crashes) == (2, 1)


def test_a_step_that_crashed_too_often_is_claimed_by_the_solo_pool_only(house: "House") -> None:
    run_id = house.start(script("a"))
    house.execute("UPDATE steps SET solo = true WHERE run = :run", {"run": run_id})

    with pytest.raises(NothingToClaim):
        house.claim(run_id, "a")

    assert house.claim(run_id, "a", solo_pool=True).claim.solo


def test_lease_arithmetic_counts_from_the_end_of_a_wait_for_a_lock(
    patient_house: "House", wait_until: "WaitUntil"
) -> None:
    # now() is from before the wait: a claim that waited longer than its lease would be born expired. (Postgres works
    # the row out again only if it was changed meanwhile; after a mere lock a lease is shorter by the wait, at most
    # the connections' `lock_timeout` of 2 s.)
    house = patient_house
    run_id = house.start(script("a"))
    with house.owner.connect() as blocker, ThreadPoolExecutor(1) as other:
        blocker.exec_driver_sql(f"UPDATE chargehand.steps SET halt = NULL WHERE id = '{step_id(run_id, 'a')}'")
        waiting = other.submit(
            steps.claim,
            house.connections,
            tenant=house.tenant,
            step_id=step_id(run_id, "a"),
            holder="worker",
            lease_seconds=0.3,
        )
        wait_until(lambda: house.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        blocker.exec_driver_sql("SELECT pg_sleep(0.5)")
        blocker.commit()
        claimed = waiting.result(timeout=60)
    claimed_at = house.execute("SELECT at FROM journal WHERE run = :run AND kind = 'step.claimed'", {"run": run_id})
    assert house.row(run_id, "a").lease_until > claimed_at[0][0]
    HeldStep(house.connections, claimed).finish(DONE)


def test_a_follower_in_a_chain_cannot_be_claimed_before_its_turn(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    assert house.statuses(run_id) == {"a": "queued", "b": "chained"}
    house.claim(run_id, "a")

    # A duplicate of the head went on down its chain: Celery delivers the second link.
    with pytest.raises(NothingToClaim, match="is chained") as refused:
        house.claim(run_id, "b")

    assert not refused.value.ended


def test_were_followers_queued_at_once_a_duplicated_head_would_start_the_second_link_too_early(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))
    house.claim(run_id, "a")
    # The old way: every link queued at emission.
    house.execute("UPDATE steps SET status = 'queued' WHERE run = :run AND key = 'b'", {"run": run_id})

    assert house.claim(run_id, "b").claim.epoch == 1
    assert house.row(run_id, "a").status == "running"


def test_the_end_of_a_link_queues_the_next_one_in_the_same_commit(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"), script("c", "b"))

    ended = house.run(run_id, "a")

    assert ended.next_queued
    assert house.statuses(run_id) == {"a": "succeeded", "b": "queued", "c": "chained"}


def test_a_failed_link_queues_nothing(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"))

    ended = house.claim(run_id, "a").finish(StepFinished(outcome="failed", error="no"))

    assert not ended.next_queued
    assert house.statuses(run_id)["b"] == "chained"
    house.advance(run_id)
    assert house.statuses(run_id) == {"a": "failed", "b": "skipped"}


def test_a_link_that_is_handed_back_gives_its_followers_free(house: "House") -> None:
    run_id = house.start(script("a"), script("b", "a"), script("c", "b"))

    house.claim(run_id, "a").release(StepReleased(reason="drain"))

    assert house.statuses(run_id) == {"a": "ready", "b": "pending", "c": "pending"}
    assert house.drift(run_id) == []
