"""What lets a story be long: parts judged one by one, turns that a step had to wait for, plans, strikes, sizes."""

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from chaos.__main__ import SIZES, scale_of
from chaos.case import Case
from chaos.checker import RULES, RULES_OF_RUNS, RULES_OF_THE_WHOLE, judge
from chaos.evidence import Evidence, Row, Step
from chaos.nemesis import KILLS, OTHERS, STRIKES
from chaos.recovery import gaps
from chaos.submitter import STEPS_A_WIDE_RUN, plans_of
from chaos.trial import parts
from chaos.world_rules import recoveries

from chargehand.orchestrator.facts import StepRecovered
from tests.unit.chaos.stories import BEGAN, RUN, TENANT, claimed, clock, finished, story


def test_a_story_is_divided_into_parts_that_keep_every_run_once_and_in_order() -> None:
    sizes = {UUID(int=number): size for number, size in enumerate((30, 30, 30, 200, 1, 0))}

    divided = list(parts(sizes, steps_a_part=60))

    assert [[run.int for run in part] for part in divided] == [[0, 1], [2], [3], [4, 5]]
    assert list(parts({}, steps_a_part=60)) == []


def test_what_is_judged_in_parts_and_as_a_whole_is_all_that_is_judged() -> None:
    assert {*RULES_OF_RUNS, *RULES_OF_THE_WHOLE} == {*RULES}


def test_a_run_that_was_reported_of_and_does_not_exist_is_objected_to() -> None:
    evidence = replace(story().evidence(), reported=frozenset({str(RUN), str(UUID(int=9))}))
    [objection] = judge(evidence)
    assert "was reported of and does not exist" in objection


def others(waits: list[float], *, pool: str = "audit", at: float = 54) -> Evidence:
    """A story in which 'end' is taken away and runs again late; others of its pool were claimed after such waits."""
    told = story()
    told.remove("end", "step.finished")
    told.write("end", 70, 1, StepRecovered(crashes=1))
    told.write("end", 75, 2, claimed(14, crashes=1))
    told.write("end", 76, 2, finished())
    told.change(None, "steps.anchored", at=80)
    told.change(None, "run.finished", at=81)
    evidence = told.evidence()
    killed = replace(evidence.strikes[0], what="kill audit", at=clock(52.5), until=clock(52.5), pid=13)
    template = evidence.steps[0]
    row = next(row for row in evidence.journal if row.kind == "step.finished")
    steps: list[Step] = []
    rows: list[Row] = []
    edges: set[tuple[UUID, UUID]] = set()
    for number, waited in enumerate(waits):
        before, after = UUID(int=1_000 + number), UUID(int=2_000 + number)
        steps += [
            replace(template, id=one, key=str(one), spec={**template.spec, "pool": pool}) for one in (before, after)
        ]
        edges.add((before, after))
        rows.append(replace(row, step=before, at=BEGAN + timedelta(seconds=at - waited)))
        claim = next(row for row in evidence.journal if row.kind == "step.claimed")
        rows.append(replace(claim, tenant=TENANT, step=after, seq=1, at=BEGAN + timedelta(seconds=at)))
    return replace(
        evidence,
        strikes=[killed],
        steps=[*evidence.steps, *steps],
        journal=[*evidence.journal, *rows],
        edges=frozenset(evidence.edges) | edges,
    )


@pytest.mark.parametrize(
    ("waits", "pool", "at", "objects"),
    [
        ([], "audit", 54, True),
        ([30.0] * 4, "audit", 54, True),
        ([30.0] * 9, "audit", 54, False),
        ([30.0] * 9, "coding", 54, True),
        # A few that had to wait for reasons of their own excuse nobody.
        ([30.0] * 4 + [0.5] * 9, "audit", 54, True),
        # A pool that took nothing, and then everything at once, did not make anybody wait their turn.
        ([30.0] * 9, "audit", 74, True),
    ],
)
def test_what_was_killed_waits_its_turn_as_long_as_the_others_of_its_pool_and_no_longer(
    waits: list[float], pool: str, at: float, objects: bool
) -> None:
    case = Case(others(waits, pool=pool, at=at))

    told = list(recoveries(case))

    assert any("step 'end' ran again 22.5 s after" in line for line in told) == objects
    [gap] = [gap for gap in gaps(case) if gap.step == "end"]
    assert (gap.turn_seconds > 20) != objects


def queued(moments: Sequence[float], *, places: int) -> Evidence:
    """The same story; these messages of its pool were taken meanwhile."""
    evidence = others([0.5] * len(moments))
    claims = [row for row in evidence.journal if row.kind == "step.claimed" and row.step.int >= 2_000]
    claims = [row for row in claims if row.step.int < 2_000 + len(moments)]
    moved = {
        row.step: replace(row, at=BEGAN + timedelta(seconds=moment))
        for row, moment in zip(claims, moments, strict=True)
    }
    journal = [moved.get(row.step, row) if row.kind == "step.claimed" else row for row in evidence.journal]
    return replace(evidence, journal=journal, places=places)


@pytest.mark.parametrize(
    ("moments", "places", "turn_seconds"),
    [
        # 'end' is ready at 70 and runs again at 75.
        ([70.5, 71, 72, 74.5], 2, 4.5),
        # What one place may have had before it, and no more.
        ([70.5, 71, 72, 74.5], 1, 2),
        ([70.5, 71, 72, 74.5], 0, 0),
        # A pack is one message.
        ([71] * 30 + [72], 1, 2),
        # What was taken before it was ready, or with it, was not in its way.
        ([60, 69, 75, 76], 9, 0),
    ],
)
def test_the_messages_that_may_lie_before_a_step_are_its_turn(
    moments: Sequence[float], places: int, turn_seconds: float
) -> None:
    case = Case(queued(moments, places=places))
    end = case.named[str(RUN), "end"]

    assert case.queue_wait(end, since=clock(70), again=clock(75)) == pytest.approx(turn_seconds, abs=0.001)
    assert case.turn(end, struck=clock(52.5), mended=clock(52.5), again=clock(75)) == pytest.approx(
        turn_seconds, abs=0.001
    )


def test_a_pool_that_paused_for_longer_than_a_recovery_may_take_made_nobody_wait_their_turn() -> None:
    case = Case(queued([54, 55, 61, 62, 63], places=9))
    end = case.named[str(RUN), "end"]

    assert case.queue_wait(end, since=clock(53), again=clock(75)) == pytest.approx(2, abs=0.001)


@pytest.mark.parametrize(("at", "others_taken"), [(54, 0), (72, 9)])
def test_what_a_late_step_waited_for_is_told_with_the_objection(at: float, others_taken: int) -> None:
    [told] = [line for line in recoveries(Case(others([0.5] * 9, at=at))) if "'end'" in line]
    assert "found lost (crash) after 17.5 s, then not taken for 5.0 s" in told
    assert f"in which pool 'audit' took {others_taken} others" in told
    assert "the last strike before was 'kill audit', over 22.5 s before" in told


def test_a_share_of_the_steps_is_in_wide_runs_whose_fan_is_one_pools_and_meets_again() -> None:
    plans = plans_of(random.Random(1), 2_000, seconds=0.1, wide_share=0.5)

    assert sum(len(plan.steps) for plan in plans) == 2_000
    wide = [plan for plan in plans if len(plan.steps) == STEPS_A_WIDE_RUN]
    assert len(wide) == 4
    for plan in wide:
        fan = [step for step in plan.steps if step.key.startswith("w")]
        assert len({step.pool for step in fan}) == 1
        join = next(step for step in plan.steps if step.key == "join")
        assert set(join.after) == {step.key for step in fan}
        # What waits for nothing else waits for the join: the fan is in nobody's way, nor anybody in its.
        assert all(step.after for step in plan.steps if step.key != "start")


def test_kills_and_other_strikes_are_all_the_strikes_there_are_and_none_is_both() -> None:
    assert {*KILLS} | {*OTHERS} == {*STRIKES}
    assert not {*KILLS} & {*OTHERS}


def test_the_long_size_is_that_of_the_promise_and_an_option_changes_one_thing_of_it() -> None:
    options = argparse.Namespace(
        size="long", steps=None, faults=None, kills=None, pause_seconds=None, open_runs=None, most_seconds=60.0
    )

    scale = scale_of(options)

    assert (scale.steps, scale.kills) == (100_000, 1_000)
    assert scale == replace(SIZES["long"], most_seconds=60.0)
