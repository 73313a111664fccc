"""A call that is not urgent outlives its claim: never paid twice, never lost, wherever its worker dies."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from chargehand.orchestrator import charges
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import (
    BatchSubmitted,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    StepWaiting,
    parse_fact,
)
from chargehand.orchestrator.plan import Plan, Step, step_id
from chargehand.orchestrator.prices import batched_microusd, cost_microusd
from chargehand.orchestrator.tenant_counts import CountCaps, counts_of, set_count_caps
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import Batches, BatchFailed, ModelAnswer, ModelCall
from chargehand.workers.offline.batches import BatchStore
from chargehand.workers.offline.server import OfflineServer
from chargehand.workers.replay import replay
from chargehand.workers.shop import Shop
from tests.integration.core import agents
from tests.integration.core.batch_models import NAME, models_of, serving

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

ASK = agents.agent("ask", urgent=False)
At = Literal["before", "after"]


class Killed(BaseException):
    """`kill -9`: nothing of the worker's own runs any more."""


class Mortal:
    """Batches whose worker dies at one moment, once."""

    def __init__(self, real: Batches, method: str = "", at: At = "before") -> None:
        self.real = real
        self.deaths = {(method, at)}

    def submit(self, call: ModelCall, call_id: UUID) -> str:
        self._die("submit", "before")
        batch_id = self.real.submit(call, call_id)
        self._die("submit", "after")
        return batch_id

    def find(self, model: str, call_id: UUID) -> str | None:
        self._die("find", "before")
        batch_id = self.real.find(model, call_id)
        self._die("find", "after")
        return batch_id

    def answer(self, model: str, batch_id: str, call_id: UUID) -> ModelAnswer | None:
        self._die("answer", "before")
        answer = self.real.answer(model, batch_id, call_id)
        if answer is not None:
            self._die("answer", "after")
        return answer

    def cancel(self, model: str, batch_id: str) -> None:
        self._die("cancel", "before")
        self.real.cancel(model, batch_id)
        self._die("cancel", "after")

    def _die(self, method: str, at: At) -> None:
        if (method, at) in self.deaths:
            self.deaths.clear()
            raise Killed


class Expired(Mortal):
    """Batches that nobody gets to within their day."""

    def answer(self, model: str, batch_id: str, call_id: UUID) -> ModelAnswer | None:
        raise BatchFailed(f"The call in batch {batch_id} is expired: no reason given.")


@pytest.fixture
def server() -> Iterator[OfflineServer]:
    with serving() as server:
        yield server


@pytest.fixture
def models(server: OfflineServer) -> Iterator[AnthropicModels]:
    with models_of(server) as models:
        yield models


def shop_of(house: "House", models: AnthropicModels, batches: Batches | None = None) -> Shop:
    return replace(house.shop(), models=models, batches=batches or models.batches())


def go_on(house: "House", shop: Shop, run_id: UUID) -> None:
    """What happens when the step's time has come, or its worker is known to be dead."""
    if house.statuses(run_id)["ask"] == "running":
        house.expire(run_id, "ask")
        house.recover()
    house.execute(
        "UPDATE steps SET run_after = clock_timestamp() - interval '1 s' WHERE id = :step AND status = 'waiting'",
        {"step": step_id(run_id, "ask")},
    )
    house.watch()
    house.admit()
    agents.deliver(house, shop, run_id, "ask")


def finish(house: "House", shop: Shop, run_id: UUID, *, most: int = 30) -> int:
    """Deliver until the step is over; gives how often its worker died."""
    deaths = 0
    try:
        agents.deliver(house, shop, run_id, "ask")
    except Killed:
        deaths += 1
    for _ in range(most):
        if house.statuses(run_id)["ask"] == "succeeded":
            house.advance(run_id)
            return deaths
        try:
            go_on(house, shop, run_id)
        except Killed:
            deaths += 1
    raise AssertionError(f"not over: {house.statuses(run_id)} {house.kinds(run_id, 'ask')}")


def facts(house: "House", run_id: UUID) -> list[Any]:
    rows = house.execute(
        "SELECT schema_version, body FROM journal WHERE run = :run AND step = :step ORDER BY seq",
        {"run": run_id, "step": step_id(run_id, "ask")},
    )
    return [parse_fact(row.body, schema_version=row.schema_version) for row in rows]


def check(house: "House", server: OfflineServer, run_id: UUID, *, lost: int = 0) -> list[Any]:
    """Each answer that the server was paid for is in the journal once, and the books agree; gives the facts."""
    said = facts(house, run_id)
    answers = [fact for fact in said if isinstance(fact, ModelResponded)]
    given_up = [fact for fact in said if isinstance(fact, CallAbandoned)]
    billed = [call for call in server.ledger.calls() if call["billed"]]
    assert len(billed) == len(answers) > 0
    assert len({fact.call_id for fact in answers}) == len(answers)
    assert len(given_up) == lost
    row = house.row(run_id, "ask")
    paid = sum(fact.cost_microusd for fact in answers) + sum(fact.charged_microusd for fact in given_up)
    assert (row.spent_microusd, row.reserved_microusd) == (paid, 0)
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []
    with house.as_tenant() as session:
        again = replay(session, house.tenant, run_id, {})
        assert charges.of_run(session, run_id, house.settings).costs.total.cost_microusd == paid
    assert again.divergences == ()
    assert again.requests == sum(isinstance(fact, ModelRequested) for fact in said)
    return said


def test_a_call_that_is_not_urgent_waits_in_a_batch_at_half_price(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    server.batches.delay_seconds = 3_600
    run_id = agents.start(house, ASK, tools={})
    shop = shop_of(house, models)

    agents.deliver(house, shop, run_id, "ask")
    waiting = house.row(run_id, "ask")
    assert (waiting.status, waiting.wait_reason, waiting.holder) == ("waiting", "batch", None)
    assert waiting.run_after is not None
    assert waiting.reserved_microusd > 0
    go_on(house, shop, run_id)
    go_on(house, shop, run_id)
    looks = [fact for fact in facts(house, run_id) if isinstance(fact, StepWaiting)]
    assert [look.reason for look in looks] == ["batch"] * 3
    server.batches.delay_seconds = 0
    finish(house, shop, run_id)

    said = check(house, server, run_id)
    requests = [fact for fact in said if isinstance(fact, ModelRequested)]
    assert all(fact.batched and "batched" in fact.routed_because for fact in requests)
    for fact in said:
        if isinstance(fact, ModelResponded):
            assert fact.cost_microusd == batched_microusd(cost_microusd(NAME, fact.usage))
    assert {call["path"] for call in server.ledger.calls()} == {"/v1/messages/batches"}


@pytest.mark.parametrize(
    ("method", "at", "lost"),
    [
        # Nobody can tell it from a batch that the server has lost: it is charged, and the call made again.
        ("submit", "before", 1),
        ("submit", "after", 0),
        ("answer", "before", 0),
        ("answer", "after", 0),
    ],
)
def test_a_worker_that_dies_at_any_moment_pays_once(
    house: "House", server: OfflineServer, models: AnthropicModels, method: str, at: At, lost: int
) -> None:
    run_id = agents.start(house, ASK, tools={})
    shop = shop_of(house, models, Mortal(models.batches(), method, at))

    assert finish(house, shop, run_id) == 1

    check(house, server, run_id, lost=lost)


def test_a_worker_that_dies_when_it_has_said_that_the_batch_was_taken_pays_once(
    house: "House", server: OfflineServer, models: AnthropicModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = agents.start(house, ASK, tools={})
    commit = StepRecorder.submitted

    def die(self: StepRecorder, fact: Any) -> None:
        commit(self, fact)
        monkeypatch.undo()
        raise Killed

    monkeypatch.setattr(StepRecorder, "submitted", die)

    assert finish(house, shop_of(house, models), run_id) == 1

    check(house, server, run_id)


def test_a_lost_call_is_looked_for_until_the_batches_that_may_have_it_have_ended(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    server.batches.delay_seconds = 3_600
    run_id = agents.start(house, ASK, tools={})
    shop = shop_of(house, models, Mortal(models.batches(), "submit", "after"))
    with pytest.raises(Killed):
        agents.deliver(house, shop, run_id, "ask")

    go_on(house, shop, run_id)
    assert house.row(run_id, "ask").wait_reason == "batch"
    assert "call.abandoned" not in house.kinds(run_id, "ask")
    server.batches.delay_seconds = 0
    finish(house, shop, run_id)

    check(house, server, run_id)


@pytest.mark.parametrize("why", ["expired", "errored"])
def test_a_batch_without_an_answer_costs_nothing_and_the_call_is_made_at_once(
    house: "House", server: OfflineServer, models: AnthropicModels, why: str
) -> None:
    run_id = agents.start(house, ASK, tools={})
    if why == "errored":
        server.faults.replace([{"kind": "server_error", "times": 1}])
    batches = Expired(models.batches()) if why == "expired" else models.batches()
    shop = shop_of(house, models, batches)

    finish(house, shop, run_id)

    said = facts(house, run_id)
    failed = next(fact for fact in said if isinstance(fact, ModelFailed))
    assert (failed.error.startswith("BatchFailed:"), why in failed.error, failed.cost_microusd) == (True, True, 0)
    after = said[said.index(failed) :]
    assert not next(fact for fact in after if isinstance(fact, ModelRequested)).batched
    assert house.drift(run_id) == []


def test_an_endpoint_without_batches_is_asked_at_once_and_says_so(house: "House", server: OfflineServer) -> None:
    run_id = agents.start(house, ASK, tools={})
    with models_of(server, profile="litellm") as models:
        agents.deliver(house, shop_of(house, models), run_id, "ask")

    requests = [fact for fact in check(house, server, run_id) if isinstance(fact, ModelRequested)]
    assert not any(fact.batched for fact in requests)
    assert "not urgent, but litellm has no batches" in requests[0].routed_because


def test_only_an_agent_can_be_not_urgent() -> None:
    with pytest.raises(InvalidPlan, match="urgent: false"):
        Plan.of([Step(key="a", kind="script", script="work", urgent=False)])


def test_a_batch_whose_reply_was_lost_is_found_by_the_next_look(
    house: "House", server: OfflineServer, models: AnthropicModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = server.batches.make

    def break_off(*arguments: Any) -> Any:
        make(*arguments)
        monkeypatch.undo()
        raise ConnectionError("The peer is gone.")

    monkeypatch.setattr(server.batches, "make", break_off)
    run_id = agents.start(house, ASK, tools={})
    shop = shop_of(house, models)

    agents.deliver(house, shop, run_id, "ask")
    assert house.kinds(run_id, "ask")[-2:] == ["model.requested", "step.waiting"]
    finish(house, shop, run_id)

    check(house, server, run_id)


def test_a_batch_that_its_server_has_forgotten_is_charged_as_reserved(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    run_id = agents.start(house, ASK, tools={})
    shop = shop_of(house, models)
    agents.deliver(house, shop, run_id, "ask")
    reserved = house.row(run_id, "ask").reserved_microusd
    server.batches = BatchStore()

    finish(house, shop, run_id)

    said = facts(house, run_id)
    failed = next(fact for fact in said if isinstance(fact, ModelFailed))
    assert (failed.cost_microusd, "not there any more" in failed.error) == (reserved, True)
    assert house.row(run_id, "ask").reserved_microusd == 0
    assert house.drift(run_id) == []


def test_tokens_of_a_batch_count_against_the_runs_cap_as_they_were(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    run_id = agents.start(house, ASK, tools={}, max_tokens=1_000_000)
    finish(house, shop_of(house, models), run_id)

    usages = [fact.usage for fact in check(house, server, run_id) if isinstance(fact, ModelResponded)]
    used = sum(u.input_tokens + u.output_tokens + u.cache_write_tokens + u.cache_read_tokens for u in usages)
    assert (house.budget(run_id).calls, house.budget(run_id).tokens) == (len(usages), used)


@pytest.mark.parametrize("again", [False, True])
def test_a_batch_that_is_out_when_its_tenants_cap_is_first_set_counts_as_it_was(
    house: "House", server: OfflineServer, models: AnthropicModels, again: bool
) -> None:
    server.batches.delay_seconds = 3_600
    run_id = agents.start(house, ASK, tools={})
    shop = shop_of(house, models)
    agents.deliver(house, shop, run_id, "ask")
    bound = next(fact for fact in facts(house, run_id) if isinstance(fact, ModelRequested)).max_tokens

    for caps in [CountCaps(day_max_tokens=10_000_000), CountCaps(), CountCaps(max_calls=1_000)][: 3 if again else 1]:
        with Session(house.supervisor) as session, session.begin():
            set_count_caps(session, house.tenant, caps)
    assert counted(house) == (1, bound, 1, bound)
    server.batches.delay_seconds = 0
    finish(house, shop, run_id)

    usages = [fact.usage for fact in check(house, server, run_id) if isinstance(fact, ModelResponded)]
    used = sum(u.input_tokens + u.output_tokens + u.cache_write_tokens + u.cache_read_tokens for u in usages)
    assert counted(house)[:2] == (len(usages), used)


def test_an_answer_of_a_batch_that_nobody_counted_makes_no_cap_wider(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    run_id = agents.start(house, ASK, tools={})
    shop = shop_of(house, models)
    server.batches.delay_seconds = 3_600
    agents.deliver(house, shop, run_id, "ask")
    with Session(house.supervisor) as session, session.begin():
        set_count_caps(session, house.tenant, CountCaps(max_tokens=10_000_000))
    # As if its claim had asked after the cap was set, and had begun before.
    house.execute("UPDATE batched_calls SET counted = false WHERE run = :run", {"run": run_id})
    house.execute("UPDATE tenant_usage SET calls = 0, tokens = 0 WHERE tenant = :t", {"t": house.tenant})
    server.batches.delay_seconds = 0
    finish(house, shop, run_id)

    _first, *others = [fact.usage for fact in check(house, server, run_id) if isinstance(fact, ModelResponded)]
    used = sum(u.input_tokens + u.output_tokens + u.cache_write_tokens + u.cache_read_tokens for u in others)
    assert counted(house)[:2] == (len(others), used)


def counted(house: "House") -> tuple[int, int, int, int]:
    with house.as_tenant() as session:
        now = counts_of(session, house.tenant)
    return now.calls, now.tokens, now.day_calls, now.day_tokens


def test_calls_of_a_fan_out_share_a_batch_and_each_has_its_own_journal(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    run_ids = [agents.start(house, ASK, tools={}) for _ in range(3)]
    shop = shop_of(house, models, models.batches(gather_seconds=300.0, most_in_batch=3))
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda run_id: agents.deliver(house, shop, run_id, "ask"), run_ids))

    submitted = [fact for run_id in run_ids for fact in facts(house, run_id) if isinstance(fact, BatchSubmitted)]
    assert len(submitted) == 3
    [batch_id] = {fact.batch_id for fact in submitted}
    assert {one["custom_id"] for one in server.batches.results(batch_id) or ()} == {
        str(fact.call_id) for fact in submitted
    }
    alone = shop_of(house, models)
    for run_id in run_ids:
        finish(house, alone, run_id)
        assert house.row(run_id, "ask").reserved_microusd == 0
        assert house.objections(run_id) == []


def test_workers_that_die_after_a_shared_batch_was_made_find_their_calls_in_it(
    house: "House", server: OfflineServer, models: AnthropicModels
) -> None:
    run_ids = [agents.start(house, ASK, tools={}) for _ in range(2)]
    shared = models.batches(gather_seconds=300.0, most_in_batch=2)

    def die(run_id: UUID) -> None:
        with pytest.raises(Killed):
            agents.deliver(house, shop_of(house, models, Mortal(shared, "submit", "after")), run_id, "ask")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(die, run_ids))
    for run_id in run_ids:
        finish(house, shop_of(house, models), run_id)
        said = facts(house, run_id)
        assert not [fact for fact in said if isinstance(fact, CallAbandoned)]
    billed = [call for call in server.ledger.calls() if call["billed"]]
    answers = [fact for run_id in run_ids for fact in facts(house, run_id) if isinstance(fact, ModelResponded)]
    assert len(billed) == len(answers)
