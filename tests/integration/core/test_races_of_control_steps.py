"""An `any` join that has children: they begin with whoever won, and are not kept waiting for the others."""

from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pydantic import JsonValue

from chargehand.orchestrator.plan import RESULT_OF, Branch, Map, Merge, Repeat, Step
from chargehand.workers.replay import replay
from tests.integration.core.test_control_steps import HELPER, agents, asks
from tests.integration.core.test_forks import Desk
from tests.integration.core.test_races import SHA, check_end, end, given, go, script, won

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

AFTER = ("near", "far")
BRANCH = Step(key="join", kind="branch", after=AFTER, join="any", branch=Branch(labels=("yes", "no"), script="choose"))
# Its child asks for what the loser would have given: it is told that there is nothing, as any step is.
BODY = script("each", arguments={"loser": {RESULT_OF: "near"}})
MAP = Step(key="join", kind="map", after=AFTER, join="any", map=Map(items=[1], body=(BODY,)))
REPEAT = Step(
    key="join", kind="repeat", after=AFTER, join="any", repeat=Repeat(body=(script("try"),), until="try", max_rounds=2)
)
MERGE = Step(key="join", kind="merge", after=AFTER, join="any", merge=Merge())


def check_replay(house: "House", run_id: UUID) -> None:
    with house.as_tenant() as session:
        assert replay(session, house.tenant, run_id, {}).divergences == ()


def finish(house: "House", run_id: UUID, key: str, result: JsonValue) -> None:
    house.run(run_id, key, result)
    go(house, run_id)


@pytest.mark.parametrize(
    ("join", "child", "answer"),
    [
        (BRANCH, "join/choose", "yes"),
        (MAP, "join/0/each", None),
        (REPEAT, "join/1/try", True),
        (MERGE, "join/try", {"conflicts": []}),
    ],
    ids=["branch", "map", "repeat", "merge"],
)
def test_the_children_begin_with_the_first_and_the_others_are_cancelled(
    house: "House", join: Step, child: str, answer: JsonValue
) -> None:
    run_id = house.start(script("near"), script("far"), join, script("end", "join"))
    house.open_pool("coding")
    end(house, run_id, "far", commit=SHA[0])
    go(house, run_id)

    assert won(house, run_id) == [{"join": "far"}]
    statuses = house.statuses(run_id)
    assert (statuses["near"], statuses["join"], statuses[child]) == ("cancelled", "waiting", "queued")
    child_step = Step.model_validate(house.row(run_id, child).spec)
    assert given(house, run_id, child_step) == ({"far": "of far"}, SHA[0])

    finish(house, run_id, child, answer)
    assert given(house, run_id, script("end", "join"))[1] == SHA[0]
    finish(house, run_id, "end", None)
    check_end(house, run_id)
    check_replay(house, run_id)


def test_a_loser_that_ended_as_well_is_given_to_no_round(house: "House") -> None:
    run_id = house.start(script("near"), script("far"), REPEAT)
    end(house, run_id, "far", commit=SHA[0])
    end(house, run_id, "near", commit=SHA[1])
    go(house, run_id)
    first = Step.model_validate(house.row(run_id, "join/1/try").spec)
    assert given(house, run_id, first) == ({"far": "of far"}, SHA[0])

    finish(house, run_id, "join/1/try", False)
    second = Step.model_validate(house.row(run_id, "join/2/try").spec)
    assert given(house, run_id, second)[0] == {"far": "of far", "join/1/try": False}
    finish(house, run_id, "join/2/try", True)
    check_end(house, run_id)
    check_replay(house, run_id)


def test_a_colleague_of_the_one_that_goes_on_does_not_wait_for_the_loser(house: "House") -> None:
    # Somebody else needs the loser: it goes on.
    asker = script("a", "near", "far", join="any")
    run_id = house.start(script("near"), script("far"), asker, script("other", "near"))
    agents(house, run_id, "a")
    end(house, run_id, "far")
    go(house, run_id)

    asks(house, run_id, "a", HELPER.model_copy(update={"after": AFTER}))

    assert house.statuses(run_id)["near"] == "queued"
    assert house.statuses(run_id)["a/helper-1"] == "queued"
    assert house.row(run_id, "a/helper-1").spec["after"] == ["far"]


def test_a_fork_within_the_children_goes_on_with_the_same_winner(house: "House") -> None:
    desk = Desk(house)
    run_id = desk.submit(script("near"), script("far"), MAP, script("end", "join"))
    go(house, run_id)
    for key in ("far", "near"):
        end(house, run_id, key)
    desk.finish(run_id)
    assert won(house, run_id) == [{"join": "far"}]

    fork = desk.fork(run_id, "join/0/each")
    desk.scripts.clear()
    desk.finish(fork)

    assert desk.scripts == ["join/0/each", "end"]
    assert won(house, fork) == [{"join": "far"}]
    check_end(house, fork)
    check_replay(house, fork)
