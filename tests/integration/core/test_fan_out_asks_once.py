"""Agents that meet one closed door ask one question; it shows at once, and what a person lets go on is forgiven."""

import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from chargehand.orchestrator.client import Client
from chargehand.workers.models.interface import Block, ModelCall
from chargehand.workers.shop import Shop
from chargehand.workers.tools.registry import Tool, ToolRetry, make_tool
from tests.integration.core import agents

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

FAN = [f"a{number}" for number in range(6)]
VISIBLE_SECONDS = 1.0


class Door:
    """A tool that fails in the same way for everybody, until it is opened."""

    def __init__(self) -> None:
        self.is_open = False
        self.knocks = 0
        self.knocked_at = 0.0

    def tools(self) -> dict[str, Tool]:
        def fetch(page: str) -> str:
            """Fetch a page."""
            self.knocks += 1
            self.knocked_at = time.monotonic()
            if not self.is_open:
                raise ToolRetry("403: this host is not allowed")
            return "the page"

        return {"fetch": make_tool(fetch, effect="pure")}

    def reply(self, call: ModelCall, turn: int) -> list[Block]:
        if (self.is_open and '"the page"' in str(call.messages)) or "the page" in str(call.messages[-1]):
            return [agents.use("submit_answer", turn, **agents.ANSWER)]
        return [agents.use("fetch", turn, page="index.html")]


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def worker(house: "House", door: Door) -> Shop:
    return agents.shop(house, door.reply, door.tools())


def client(house: "House") -> Client:
    return Client(house.database_url, "redis://127.0.0.1:1", tenant=house.tenant, settings=house.settings, name="ada")


def waiting(house: "House", run_id: UUID) -> list[str]:
    return [key for key, status in house.statuses(run_id).items() if status == "waiting"]


def go_on(house: "House") -> None:
    house.watch()
    house.admit()


def test_a_lasting_error_across_a_fan_out_is_one_question_and_one_answer_settles_it(
    house: "House", door: Door, worker: Shop
) -> None:
    run_id = agents.start(house, *map(agents.agent, FAN), tools=door.tools())
    for key in FAN:
        agents.deliver(house, worker, run_id, key)
    assert len(waiting(house, run_id)) == len(FAN)

    with client(house) as person:
        (asked,) = person.escalations(run_id)
        assert {asked.step_key, *asked.attached} == set(FAN)
        assert len(person.escalations(run_id, each=True)) == len(FAN)
        answered = person.resolve(asked, "retry")
        assert answered.first
        assert set(answered.with_it) == set(asked.attached)
        assert person.escalations(run_id) == []
        assert not person.answer(asked, "abort")

    door.is_open = True
    go_on(house)
    for key in FAN:
        agents.deliver(house, worker, run_id, key)
    assert set(house.statuses(run_id).values()) == {"succeeded"}
    house.advance(run_id)
    assert house.run_row(run_id).status == "succeeded"
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_an_answer_for_one_step_only_leaves_the_others_their_question(house: "House", door: Door, worker: Shop) -> None:
    run_id = agents.start(house, *map(agents.agent, FAN[:3]), tools=door.tools())
    for key in FAN[:3]:
        agents.deliver(house, worker, run_id, key)
    with client(house) as person:
        (asked,) = person.escalations(run_id)
        assert person.resolve(asked, "skip", only=True).with_it == ()
        (rest,) = person.escalations(run_id)
        assert {rest.step_key, *rest.attached} == {*FAN[:3]} - {asked.step_key}
        # A result by hand is one step's, whoever else waits.
        assert person.resolve(rest, "override", agents.ANSWER).with_it == ()
        (last,) = person.escalations(run_id)
    assert (len({asked.step_key, rest.step_key, last.step_key}), last.attached) == (3, ())


def test_what_a_person_lets_try_again_is_forgiven_in_the_whole_run(house: "House", door: Door, worker: Shop) -> None:
    run_id = agents.start(house, *map(agents.agent, FAN), tools=door.tools())
    first, late = FAN[0], FAN[5]
    agents.deliver(house, worker, run_id, first)
    with client(house) as person:
        (asked,) = person.escalations(run_id)
        person.answer(asked, "retry")
    before = door.knocks

    # It has not failed yet; without forgiveness the others' failures would make its first one the last.
    agents.deliver(house, worker, run_id, late)

    assert door.knocks - before == 3
    assert late in waiting(house, run_id)


def test_steps_of_another_run_have_a_question_of_their_own(house: "House", door: Door, worker: Shop) -> None:
    runs = [agents.start(house, agents.agent("a"), tools=door.tools()) for _ in range(2)]
    for run_id in runs:
        agents.deliver(house, worker, run_id, "a")
    with client(house) as person:
        asked = person.escalations()
        assert sorted(one.run_id for one in asked) == sorted(runs)
        assert person.resolve(asked[0], "abort").with_it == ()
        assert len(person.escalations()) == 1


def test_a_trip_is_visible_within_a_second(house: "House", door: Door, worker: Shop) -> None:
    """From the call whose result shows the loop to the question in `escalations`.

    The median of five is printed and judged: what else the machine does makes single ones longer.
    """
    took: list[float] = []
    for _ in range(5):
        run_id = agents.start(house, agents.agent("a"), tools=door.tools())
        agents.deliver(house, worker, run_id, "a")
        with client(house) as person:
            (asked,) = person.escalations(run_id)
            took.append(time.monotonic() - door.knocked_at)
            kinds = [event.kind for event in person.run(run_id).events(follow=False)]
        assert asked.evidence
        assert kinds[-2:] == ["breaker.tripped", "step.waiting"]
    took.sort()
    print(f"a trip is visible after {took[2] * 1000:.0f} ms (longest of five {took[-1] * 1000:.0f} ms)")
    assert took[2] < VISIBLE_SECONDS
