"""The fleet in one look: what is counted, what waits longest, and how `top` shows it."""

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from chargehand.orchestrator.circuits import CircuitView
from chargehand.orchestrator.cli.terminal import jsonable
from chargehand.orchestrator.cli.top import _with_slots, draw
from chargehand.orchestrator.fleet_view import FleetView, InRedis, read_fleet_view
from chargehand.orchestrator.limit_view import LimitView, MinuteView
from chargehand.orchestrator.plan import Step, step_id

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

OPEN = CircuitView(kind="tool", name="fetch", state="open", why="5 of 5 failed", seconds_left=9.0, failures=5, calls=5)


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


USED = MinuteView(kind="requests", used=12, cap=50)
SLOW = LimitView(endpoint="a.example", family="claude-sonnet", minutes=[USED], pace_percent=50, held_seconds=9.0)
FREE = LimitView(endpoint="a.example", family="claude-haiku", minutes=[USED], pace_percent=100, held_seconds=0.0)


def look(house: "House", seen: InRedis | None = None) -> FleetView:
    with house.as_tenant() as session:
        return read_fleet_view(session, seen or InRedis(lengths={"research": 7}, circuits=[OPEN], limits=[SLOW, FREE]))


def shown(view: FleetView, height: int | None = None, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(draw(view, height=height))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_look_counts_pools_runs_and_what_waits_longest_and_leaves_out_what_waits_for_other_steps(
    house: "House",
) -> None:
    run_id = house.start(
        script("works", pool="research"),
        script("waits", "works", pool="research"),
        script("lies", pool="coding"),
        Step(key="asks", kind="gate", instruction="Shall we?"),
        goal="Look at me",
    )
    house.advance(run_id)
    house.claim(run_id, "works")
    house.execute(
        "UPDATE steps SET queued_at = queued_at - interval '100 s' WHERE id = :step", {"step": step_id(run_id, "lies")}
    )
    view = look(house)

    pools = {pool.name: pool for pool in view.pools}
    assert (pools["research"].slots, pools["research"].running, pools["research"].queued) == (50, 1, 7)
    assert (pools["coding"].ready, pools["coding"].queued) == (1, 0)
    assert pools["solo"].slots == 0
    [run] = view.runs
    assert (run.run_id, run.goal, run.status) == (run_id, "Look at me", "running")
    assert (run.steps, run.steps_ended, run.running, run.waiting) == (4, 0, 1, 1)
    assert run.cap_microusd == 1_000_000
    assert view.runs_under_way == 1
    assert [(one.step_key, one.reason, one.what) for one in view.questions] == [("asks", "gate", "Shall we?")]
    assert view.questions_open == 1
    [lies] = view.waits
    assert (lies.step_key, lies.reason) == ("lies", "queued")
    assert 100 <= lies.seconds < 160


def test_a_look_shows_nothing_of_another_tenant_and_nothing_that_has_ended(house: "House") -> None:
    house.start(script("a", pool="research"))
    house.lay_to_rest()
    house.execute("UPDATE runs SET finished_at = clock_timestamp() WHERE finished_at IS NULL")
    house.submit(script("b", pool="research"))
    with house.as_tenant(tenant=step_id(house.tenant, "another")) as session:
        view = read_fleet_view(session, InRedis(lengths=None))
    assert (view.runs_under_way, view.runs, view.waits, view.has_redis) == (0, [], [], False)
    assert look(house).runs_under_way == 1


def test_top_draws_every_part_and_json_has_what_it_draws(house: "House") -> None:
    run_id = house.start(
        script("a", pool="research"), Step(key="asks", kind="gate", instruction="[red]Shall\x1b[2J we?")
    )
    house.advance(run_id)
    text = shown(look(house))
    for words in ("research", "Test this", "asks", "gate", "circuit of tool fetch is open for 9.0 s", "queued"):
        assert words in text
    told = "12 of 50 requests a minute used, asked by nobody for 9.0 s, at 50% of its pace after a refusal"
    assert f"limit of claude-sonnet at a.example: {told}" in " ".join(text.split())
    assert "claude-haiku" not in text
    # What an agent asks is text: neither markup nor a control character.
    assert "[red]Shall\\x1b[2J we?" in text
    document = json.loads(json.dumps(_with_slots(look(house)), default=jsonable))
    assert {pool["name"]: pool["slots"] for pool in document["pools"]}["research"] == 50
    assert document["questions"][0]["run_id"] == str(run_id)
    assert "Redis does not answer" in shown(look(house, InRedis(lengths=None)))


@pytest.mark.parametrize("height", [24, 40])
def test_top_fits_on_its_screen_however_many_runs_there_are(house: "House", height: int) -> None:
    for _ in range(25):
        house.submit(script("a", pool="research"), script("b", pool="research"))
    view = look(house)
    assert (view.runs_under_way, len(view.runs)) == (25, 20)
    assert shown(view, height=height).count("\n") <= height
