"""A run ended while its batch is out: the batch is cancelled, what comes is accounted for once, and nothing goes on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from chargehand.orchestrator import runs
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.supervisor.closing import MOST_SEARCHES, due_closings
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.batch_closing import close_batched_call
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import Batches, ModelAnswer, ModelCall
from chargehand.workers.offline.batches import BatchStore
from chargehand.workers.offline.server import OfflineServer
from chargehand.workers.shop import Shop
from tests.integration.core import agents
from tests.integration.core.batch_models import models_of, serving

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

ASK = agents.agent("ask", urgent=False)
BATCHES = "/v1/messages/batches"


class Killed(BaseException):
    """`kill -9`: nothing of the worker's own runs any more."""


class Batching:
    """Batches as they are, but for what a test overrides."""

    def __init__(self, real: Batches) -> None:
        self.real = real

    def submit(self, call: ModelCall, call_id: UUID) -> str:
        return self.real.submit(call, call_id)

    def find(self, model: str, call_id: UUID) -> str | None:
        return self.real.find(model, call_id)

    def answer(self, model: str, batch_id: str, call_id: UUID) -> ModelAnswer | None:
        return self.real.answer(model, batch_id, call_id)

    def cancel(self, model: str, batch_id: str) -> None:
        self.real.cancel(model, batch_id)


@pytest.fixture
def server() -> Iterator[OfflineServer]:
    with serving(batch_seconds=36_000) as server:
        yield server


@pytest.fixture
def models(server: OfflineServer) -> Iterator[AnthropicModels]:
    with models_of(server) as models:
        yield models


def shop_of(house: "House", batches: Batches, models: AnthropicModels) -> Shop:
    return replace(house.shop(), models=models, batches=batches)


def waiting(house: "House", shop: Shop) -> UUID:
    """A run whose only step waits for its batch."""
    run_id = agents.start(house, ASK, tools={})
    agents.deliver(house, shop, run_id, "ask")
    assert house.row(run_id, "ask").wait_reason == "batch"
    return run_id


def sharing(house: "House", models: AnthropicModels) -> tuple[Shop, UUID, UUID]:
    """Two runs whose calls are in one batch."""
    shop = shop_of(house, models.batches(gather_seconds=300.0, most_in_batch=2), models)
    one, other = (agents.start(house, ASK, tools={}) for _ in range(2))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda run_id: agents.deliver(house, shop, run_id, "ask"), (one, other)))
    assert batch_of(house, one) == batch_of(house, other)
    return shop, one, other


def cancel(house: "House", run_id: UUID) -> None:
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id, reason="enough")
    house.advance(run_id)


def look(house: "House", shop: Shop) -> int:
    """A supervisor's round, and what its messages make of workers; gives how many it sent."""
    house.execute("UPDATE batched_calls SET look_at = clock_timestamp() - interval '1 s'")
    due = [one for one in due_closings(house.supervisor) if one.tenant == house.tenant]
    for one in due:
        # Each message comes twice.
        for _ in range(2):
            close_batched_call(shop, tenant=one.tenant, call_id=one.call_id)
    house.watch()
    return len(due)


def advance(house: "House", run_id: UUID) -> None:
    for _ in range(3):
        house.advance(run_id)


def batch_of(house: "House", run_id: UUID) -> str:
    rows = house.execute("SELECT batch_id FROM batched_calls WHERE run = :run", {"run": run_id})
    return str(rows[0].batch_id)


def status(server: OfflineServer, batch_id: str) -> str:
    told = server.batches.told(batch_id, "")
    assert told is not None
    return "cancelled" if told["cancel_initiated_at"] else str(told["processing_status"])


def is_sealed(house: "House", run_id: UUID) -> bool:
    return bool(house.execute("SELECT FROM run_anchors WHERE run = :run", {"run": run_id}))


def check(house: "House", run_id: UUID, *, spent: int) -> None:
    """The run is sealed, the books agree, and nobody looks after anything any more."""
    advance(house, run_id)
    row = house.row(run_id, "ask")
    assert (row.status, row.spent_microusd, row.reserved_microusd) == ("cancelled", spent, 0)
    assert house.budget(run_id).drawn_microusd == spent
    assert is_sealed(house, run_id)
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []
    assert house.execute("SELECT FROM batched_calls WHERE run = :run", {"run": run_id}) == []


def test_the_batch_of_a_cancelled_run_is_cancelled_and_costs_nothing(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    shop = shop_of(house, models.batches(), models)
    run_id = waiting(house, shop)
    batch_id = batch_of(house, run_id)

    cancel(house, run_id)
    assert not is_sealed(house, run_id)
    assert look(house, shop) == 1
    assert status(server, batch_id) == "cancelled"
    look(house, shop)

    check(house, run_id, spent=0)
    assert server.ledger.calls() == []
    assert look(house, shop) == 0


def test_what_had_begun_when_it_was_cancelled_is_paid_once_and_resumes_nothing(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    server.batches.answered_when_cancelled = 1
    shop = shop_of(house, models.batches(), models)
    run_id = waiting(house, shop)
    reserved = house.row(run_id, "ask").reserved_microusd

    cancel(house, run_id)
    look(house, shop)
    look(house, shop)

    [late] = house.execute("SELECT cost_microusd, booked FROM settlements WHERE run = :run", {"run": run_id})
    assert late.booked == "run"
    assert 0 < late.cost_microusd < reserved
    check(house, run_id, spent=late.cost_microusd)
    assert len([call for call in server.ledger.calls() if call["billed"]]) == 1
    assert "model.responded" not in house.kinds(run_id, "ask")
    assert house.kinds(run_id).count("reservations.returned") == 1


def test_a_batch_with_a_call_of_another_run_is_left_and_what_comes_is_settled(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    shop, gone, stays = sharing(house, models)
    batch_id = batch_of(house, gone)

    cancel(house, gone)
    look(house, shop)
    assert status(server, batch_id) == "in_progress"
    server.batches.delay_seconds = 0
    look(house, shop)

    [late] = house.execute("SELECT cost_microusd FROM settlements WHERE run = :run", {"run": gone})
    check(house, gone, spent=late.cost_microusd)
    assert late.cost_microusd > 0
    assert house.statuses(stays) == {"ask": "waiting"}


def test_a_batch_is_cancelled_when_the_last_run_in_it_has_been(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    shop, *both = sharing(house, models)
    batch_id = batch_of(house, both[0])

    cancel(house, both[0])
    look(house, shop)
    assert status(server, batch_id) == "in_progress"
    cancel(house, both[1])
    look(house, shop)
    assert status(server, batch_id) == "cancelled"
    look(house, shop)

    for run_id in both:
        check(house, run_id, spent=0)


def test_a_call_of_another_run_whose_batch_is_not_known_yet_may_be_in_it(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    shop, gone, stays = sharing(house, models)
    batch_id = batch_of(house, gone)
    house.execute("UPDATE batched_calls SET batch_id = NULL WHERE run = :run", {"run": stays})

    cancel(house, gone)
    look(house, shop)

    assert status(server, batch_id) == "in_progress"


@pytest.mark.parametrize("moment", ["cancel, before", "cancel, after", "answer, after"])
def test_a_worker_that_dies_while_it_closes_a_batch_loses_nothing(
    house: "House", server: OfflineServer, models: AnthropicModels, moment: str
) -> None:
    method, _, at = moment.partition(", ")
    deaths = [True]

    class Dying(Batching):
        def cancel(self, model: str, batch_id: str) -> None:
            self._die("cancel", "before")
            super().cancel(model, batch_id)
            self._die("cancel", "after")

        def answer(self, model: str, batch_id: str, call_id: UUID) -> ModelAnswer | None:
            answer = super().answer(model, batch_id, call_id)
            if answer is not None:
                self._die("answer", "after")
            return answer

        def _die(self, where: str, when: str) -> None:
            if (where, when) == (method, at) and deaths:
                deaths.clear()
                raise Killed

    server.batches.answered_when_cancelled = 1
    shop = shop_of(house, Dying(models.batches()), models)
    run_id = waiting(house, shop)

    cancel(house, run_id)
    killed = 0
    for _ in range(4):
        try:
            look(house, shop)
        except Killed:
            killed += 1

    assert killed == 1
    [late] = house.execute("SELECT cost_microusd FROM settlements WHERE run = :run", {"run": run_id})
    check(house, run_id, spent=late.cost_microusd)
    assert len([call for call in server.ledger.calls() if call["billed"]]) == 1


@pytest.mark.parametrize("dies", [False, True])
def test_a_run_cancelled_between_the_batch_and_its_record_has_its_batch_cancelled(
    house: "House", server: OfflineServer, models: AnthropicModels, dies: bool
) -> None:
    made: list[str] = []

    class Cancelling(Batching):
        def submit(self, call: ModelCall, call_id: UUID) -> str:
            made.append(super().submit(call, call_id))
            cancel(house, run_id)
            if dies:
                raise Killed
            return made[0]

    shop = shop_of(house, Cancelling(models.batches()), models)
    run_id = agents.start(house, ASK, tools={})
    reserved = 0
    try:
        agents.deliver(house, shop, run_id, "ask")
    except Killed:
        reserved = house.row(run_id, "ask").reserved_microusd
    assert not is_sealed(house, run_id)

    for _ in range(2):
        look(house, shop)
    if dies:
        # Its list does not say what is in a batch before that has ended: it is waited for.
        assert status(server, made[0]) == "in_progress"
        server.batches.delay_seconds = 0
        look(house, shop)
        [late] = house.execute("SELECT cost_microusd FROM settlements WHERE run = :run", {"run": run_id})
        assert 0 < late.cost_microusd < reserved
        check(house, run_id, spent=late.cost_microusd)
    else:
        assert status(server, made[0]) == "cancelled"
        check(house, run_id, spent=0)


def test_a_call_that_was_never_sent_stays_charged_as_reserved(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    class Cancelling(Batching):
        def submit(self, call: ModelCall, call_id: UUID) -> str:
            cancel(house, run_id)
            raise Killed

    shop = shop_of(house, Cancelling(models.batches()), models)
    run_id = agents.start(house, ASK, tools={})
    with pytest.raises(Killed):
        agents.deliver(house, shop, run_id, "ask")
    reserved = house.row(run_id, "ask").reserved_microusd

    look(house, shop)

    assert reserved > 0
    check(house, run_id, spent=reserved)


@pytest.mark.parametrize("why", ["searched for long enough", "a day is over"])
def test_a_run_is_sealed_at_last_whatever_its_server_says(
    house: "House", server: OfflineServer, models: AnthropicModels, why: str
) -> None:
    shop = shop_of(house, models.batches(), models)
    run_id = waiting(house, shop)
    reserved = house.row(run_id, "ask").reserved_microusd
    server.batches = BatchStore(36_000)
    cancel(house, run_id)
    advance(house, run_id)
    assert not is_sealed(house, run_id)

    change = (
        f"batch_id = NULL, looks = {MOST_SEARCHES}"
        if why.startswith("searched")
        else ("asked_at = clock_timestamp() - interval '27 h'")
    )
    house.execute(f"UPDATE batched_calls SET {change} WHERE run = :run", {"run": run_id})
    due_closings(house.supervisor)

    check(house, run_id, spent=reserved)


def test_a_forged_message_about_a_step_that_goes_on_finds_nothing_to_do(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    shop = shop_of(house, models.batches(), models)
    run_id = waiting(house, shop)
    [call] = house.execute("SELECT call FROM batched_calls WHERE run = :run", {"run": run_id})
    house.execute("UPDATE batched_calls SET may_cancel = true WHERE run = :run", {"run": run_id})

    close_batched_call(shop, tenant=house.tenant, call_id=call.call)

    assert look(house, shop) == 0
    assert status(server, batch_of(house, run_id)) == "in_progress"


def test_a_row_that_a_dead_worker_left_goes_when_its_step_has_ended(
    house: "House", server: OfflineServer, models: AnthropicModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: StepRecorder, call_id: UUID) -> None:
        raise Killed

    shop = shop_of(house, models.batches(), models)
    run_id = waiting(house, shop)
    server.batches.delay_seconds = 0
    monkeypatch.setattr(StepRecorder, "_forget_batched", die)
    house.execute(
        "UPDATE steps SET run_after = clock_timestamp() - interval '1 s' WHERE id = :step",
        {"step": step_id(run_id, "ask")},
    )
    house.watch()
    house.admit()
    with pytest.raises(Killed):
        agents.deliver(house, shop, run_id, "ask")
    monkeypatch.undo()
    spent = house.row(run_id, "ask").spent_microusd

    cancel(house, run_id)
    look(house, shop)

    assert spent > 0
    check(house, run_id, spent=spent)
