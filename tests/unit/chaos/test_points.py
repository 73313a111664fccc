"""The points know every commit of the hot path, and a trap springs once."""

from pathlib import Path

import pytest
from chaos.points import POINTS, Point, Trap, place_of

from chargehand.orchestrator import joint_turns, steps, turns


@pytest.mark.parametrize(
    ("statement", "parameters", "place"),
    [
        (steps._CLAIM, {}, "claim"),
        (steps._CLAIM_MANY, {"steps": []}, "claim of a pack"),
        (steps._FINISH, {}, "finish"),
        (steps._FINISH_ALONE, {}, "finish"),
        (steps._FINISH_MANY, {"steps": []}, "finish of a pack"),
        (steps._FOLD_IN, {}, "signal"),
        (turns._REQUEST, {"kind_1": "tool.finished", "kind_2": "model.requested"}, "request"),
        (turns._SETTLE, {"kind_1": "model.responded"}, "respond"),
        (turns._NOTE, {"kind_1": "tool.started"}, "tool started"),
        (turns._NOTE, {"kind_1": "tool.finished"}, "tool finished"),
        # Turns of several steps, by one statement.
        (joint_turns._TURNS, {"kinds": ["tool.finished", "model.requested"], "steps": []}, "request"),
        (joint_turns._TURNS, {"kinds": ["model.responded", "model.responded"], "steps": []}, "respond"),
    ],
)
def test_a_commit_is_told_by_the_facts_that_it_appends(
    statement: str, parameters: dict[str, object], place: str
) -> None:
    assert place_of(statement, parameters) == place


def test_a_statement_that_appends_nothing_is_no_commit() -> None:
    assert place_of(turns._FAILURES_OF_RUN, {}) is None


def test_a_trap_springs_once_and_only_at_its_point(tmp_path: Path) -> None:
    mine, other = Trap(tmp_path), Trap(tmp_path)
    mine.arm(Point("claim", "after"))

    assert not mine.springs("claim", "before")
    assert not mine.springs("finish", "after")
    assert [mine.springs("claim", "after"), other.springs("claim", "after")] == [True, False]
    sprung = mine.sprung()
    assert sprung is not None
    assert sprung.point == Point("claim", "after")


def test_a_trap_springs_at_the_pass_that_was_asked_for(tmp_path: Path) -> None:
    trap = Trap(tmp_path)
    trap.arm(Point("finish", "before"), passes=3)
    assert [trap.springs("finish", "before") for _ in range(4)] == [False, False, True, False]


def test_a_trap_that_was_disarmed_never_springs(tmp_path: Path) -> None:
    trap = Trap(tmp_path)
    trap.arm(POINTS[0])
    trap.disarm()
    assert not trap.springs(POINTS[0].place, POINTS[0].moment)
    assert trap.sprung() is None
