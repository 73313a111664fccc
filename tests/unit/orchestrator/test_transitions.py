"""The reducer: what facts mean, which do not follow, and what follows from a state."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.errors import IllegalFact
from chargehand.orchestrator.facts import (
    AnyFact,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    PlanPatched,
    ReservationsCharged,
    ReservationsReturned,
    RunFinished,
    RunPaused,
    RunResumed,
    RunSubmitted,
    RunTold,
    StepAnchor,
    StepClaimed,
    StepFinished,
    StepRecovered,
    StepReleased,
    StepsAnchored,
    StepsSkipped,
    StepWaiting,
    Usage,
)
from chargehand.orchestrator.plan import Plan, PlanPatch, Step, step_id
from chargehand.orchestrator.transitions import (
    STEP_ENDINGS,
    Recorded,
    RunState,
    Settlement,
    StepState,
    apply,
    apply_to_step,
    fold,
    settle,
)

RUN = UUID(int=7)


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def submitted(*steps: Step) -> RunState:
    state, effects = apply(
        RunState(run_id=RUN), run_row(1, RunSubmitted(goal="g", plan=Plan.of(steps), budget_microusd=9))
    )
    assert effects == ("ring",)
    return state


def run_row(seq: int, fact: AnyFact) -> Recorded:
    return Recorded(step=None, seq=seq, epoch=0, fact=fact)


def row(key: str, seq: int, epoch: int, fact: AnyFact) -> Recorded:
    return Recorded(step=step_id(RUN, key), seq=seq, epoch=epoch, fact=fact)


def after(state: RunState, *rows: Recorded) -> RunState:
    for recorded in rows:
        state, _ = apply(state, recorded)
    return state


def step_of(state: RunState, key: str) -> StepState:
    return state.steps[step_id(RUN, key)]


CLAIMED = StepClaimed(holder="w")


def test_a_claim_moves_the_epoch_and_the_end_gives_the_outcome() -> None:
    state = after(submitted(script("a")), row("a", 1, 1, CLAIMED))
    assert (step_of(state, "a").status, step_of(state, "a").epoch) == ("running", 1)
    state, effects = apply(state, row("a", 2, 1, StepFinished(outcome="succeeded")))
    assert step_of(state, "a").status == "succeeded"
    assert effects == ("ring", "anchor")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row("a", 2, 1, CLAIMED)], "does not follow"),
        ([row("a", 1, 1, CLAIMED), row("a", 1, 1, CLAIMED)], "does not follow"),
        ([row("a", 1, 1, CLAIMED), row("a", 2, 1, CLAIMED)], "no later"),
        ([row("a", 1, 2, CLAIMED), row("a", 2, 1, StepFinished(outcome="succeeded"))], "zombie"),
        ([row("b", 1, 1, CLAIMED)], "has no step"),
        ([run_row(1, RunPaused())], "does not follow"),
        ([row("a", 1, 0, RunPaused())], "no place in the stream"),
    ],
)
def test_a_fact_that_does_not_follow_is_illegal(rows: list[Recorded], problem: str) -> None:
    with pytest.raises(IllegalFact, match=problem):
        after(submitted(script("a")), *rows)


@pytest.mark.parametrize(
    ("fact", "status"),
    [
        (StepReleased(reason="drain"), "open"),
        (StepRecovered(crashes=2), "open"),
        (StepWaiting(wait_id=UUID(int=1), reason="human", question="?"), "waiting"),
    ],
)
def test_what_lets_go_of_a_step_frees_its_followers_and_rings(fact: AnyFact, status: str) -> None:
    state = after(submitted(script("a")), row("a", 1, 1, CLAIMED))
    state, effects = apply(state, row("a", 2, 1, fact))
    assert step_of(state, "a").status == status
    assert effects == ("unchain", "ring")


def requested(call_id: UUID, need: int) -> ModelRequested:
    return ModelRequested(
        call_id=call_id,
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=need,
    )


def test_money_is_reserved_by_the_request_and_settled_by_the_call() -> None:
    call = uuid4()
    state = after(
        submitted(script("a")), row("a", 1, 1, StepClaimed(holder="w", crashes=1)), row("a", 2, 1, requested(call, 10))
    )
    assert step_of(state, "a").reserved == {call: 10}
    answered = ModelResponded(call_id=call, model="m", content=(), stop_reason="end", usage=Usage(), cost_microusd=4)
    failed = ModelFailed(call_id=call, error="e", retryable=True, cost_microusd=0)
    abandoned = CallAbandoned(call_id=call, charged_microusd=10)
    ends = [step_of(after(state, row("a", 3, 1, fact)), "a") for fact in (answered, failed, abandoned)]
    assert [(one.spent_microusd, dict(one.reserved)) for one in ends] == [(4, {}), (0, {}), (10, {})]
    # An answer forgives the crashes before it; a call given up does not.
    assert [one.crashes for one in ends] == [0, 0, 1]


def test_what_late_answers_give_back_adds_up_by_step() -> None:
    one, other = step_id(RUN, "a"), step_id(RUN, "b")
    state = after(
        submitted(script("a"), script("b")),
        run_row(2, ReservationsReturned(returned_microusd={one: 3}, calls=(uuid4(),))),
        run_row(3, ReservationsReturned(returned_microusd={one: 4, other: 5}, calls=(uuid4(), uuid4()))),
    )
    assert state.returned == {one: 7, other: 5}


def test_a_step_that_its_run_ended_stays_ended_whatever_its_own_stream_tells() -> None:
    # A step that was recovered and then dropped has a stream of its own, and streams are folded in any order.
    rows = [
        run_row(1, RunSubmitted(goal="g", plan=Plan.of([script("a")]), budget_microusd=9)),
        run_row(2, StepsSkipped(steps=(step_id(RUN, "a"),), outcome="cancelled", reason="x")),
        row("a", 1, 1, CLAIMED),
        row("a", 2, 1, StepRecovered(crashes=1)),
    ]
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [0, 2, 3, 1]):
        assert step_of(after(RunState(run_id=RUN), *(rows[place] for place in order)), "a").status == "cancelled"


def test_a_planners_end_asks_for_its_patch_to_be_applied() -> None:
    state = after(submitted(script("a")), row("a", 1, 1, CLAIMED))
    done = StepFinished(outcome="succeeded", patch=PlanPatch(add=(script("b", "a"),)))
    assert apply(state, row("a", 2, 1, done))[1] == ("apply_patch", "ring", "anchor")


def test_the_facts_of_a_run() -> None:
    state = submitted(script("a"), script("b"), script("c"))
    a, b = step_id(RUN, "a"), step_id(RUN, "b")
    state = after(
        state,
        run_row(2, RunPaused()),
        run_row(3, RunResumed()),
        run_row(4, RunTold(message="hello")),
        run_row(5, PlanPatched(patch=PlanPatch(add=(script("d", "c"),), drop=("a",)), plan_version=2)),
        run_row(6, StepsSkipped(steps=(b,), reason="r")),
        run_row(7, StepsAnchored(anchors=(StepAnchor(step=b, seq=1, hash="00"),))),
        run_row(8, ReservationsCharged(charged_microusd={b: 3})),
        run_row(9, RunFinished(outcome="failed", reason="why")),
    )
    assert (state.status, state.reason, state.plan_version, state.seq) == ("failed", "why", 2, 9)
    assert {key: step_of(state, key).status for key in "abcd"} == {
        "a": "cancelled",
        "b": "skipped",
        "c": "open",
        "d": "open",
    }
    assert state.anchored == {b}
    assert a in state.steps


@given(st.randoms(use_true_random=False), st.integers(1, 20))
def test_streams_fold_in_any_order_that_keeps_each_ones_own(dice: Random, count: int) -> None:
    steps = [script(f"s{number}") for number in range(count)]
    streams: list[list[Recorded]] = [
        [row(step.key, 1, 1, CLAIMED), row(step.key, 2, 1, StepFinished(outcome="succeeded"))] for step in steps
    ]
    streams.append(
        [
            run_row(1, RunSubmitted(goal="g", plan=Plan.of(steps), budget_microusd=1)),
            run_row(2, RunPaused()),
            run_row(3, RunFinished(outcome="succeeded")),
        ]
    )
    plain = fold(RUN, [recorded for stream in reversed(streams) for recorded in stream])

    shuffled: list[Recorded] = []
    remaining = [list(stream) for stream in streams]
    while remaining:
        stream = dice.choice(remaining)
        shuffled.append(stream.pop(0))
        remaining = [one for one in remaining if one]

    assert fold(RUN, shuffled) == plain
    assert plain.status == "succeeded"
    assert {step.status for step in plain.steps.values()} == {"succeeded"}


def test_folding_a_step_alone_is_folding_it_in_its_run() -> None:
    state = submitted(script("a"))
    alone, _ = apply_to_step(step_of(state, "a"), row("a", 1, 1, CLAIMED))
    assert step_of(after(state, row("a", 1, 1, CLAIMED)), "a") == alone


# --- settle -----------------------------------------------------------------------------------------------------------


@st.composite
def states(draw: st.DrawFn) -> dict[UUID, StepState]:
    """Up to 60 steps in topological order, each somewhere on its way, consistent or not."""
    steps: dict[UUID, StepState] = {}
    for number in range(draw(st.integers(1, 60))):
        before = draw(st.lists(st.sampled_from(list(steps)), max_size=3, unique=True)) if steps else []
        steps[UUID(int=number)] = StepState(
            step_id=UUID(int=number),
            key=f"s{number}",
            after=tuple(before),
            join=draw(st.sampled_from(["all", "all", "settled", "any"])),
            status=draw(
                st.sampled_from(["open", "open", "open", "running", "waiting", "succeeded", "succeeded", "failed"])
            ),
        )
    return steps


def settled(steps: Mapping[UUID, StepState]) -> Settlement:
    return settle(steps, {one: step.status for one, step in steps.items()})


def may_run(step: StepState, status: Mapping[UUID, str]) -> bool:
    """Said independently of the code: what the predecessors must have done."""
    before = [status[one] for one in step.after]
    return {
        "all": all(one == "succeeded" for one in before),
        "settled": all(one in STEP_ENDINGS for one in before),
        "any": not before or "succeeded" in before,
    }[step.join]


@given(states())
def test_a_step_is_ready_exactly_when_its_predecessors_let_it_run(steps: dict[UUID, StepState]) -> None:
    found = settled(steps)
    status = {one: "skipped" if one in found.skipped else step.status for one, step in steps.items()}
    expected = {one for one, step in steps.items() if step.status == "open" and may_run(step, status)}
    assert found.ready == (frozenset() if found.outcome else expected)
    assert not found.ready & found.skipped


@given(states())
def test_a_skipped_step_could_never_run(steps: dict[UUID, StepState]) -> None:
    found = settled(steps)
    status = {one: "skipped" if one in found.skipped else step.status for one, step in steps.items()}
    for one in found.skipped:
        step = steps[one]
        assert step.status == "open"
        before = [status[predecessor] for predecessor in step.after]
        unreachable = {
            "all": any(was in STEP_ENDINGS - {"succeeded"} for was in before),
            "settled": False,
            "any": all(was in STEP_ENDINGS - {"succeeded"} for was in before),
        }
        assert unreachable[step.join]


@given(states())
def test_a_run_ends_if_and_only_if_every_step_has(steps: dict[UUID, StepState]) -> None:
    found = settled(steps)
    ended = all(step.status in STEP_ENDINGS or one in found.skipped for one, step in steps.items())
    assert (found.outcome is not None) == ended


@given(states(), st.randoms(use_true_random=False))
def test_working_off_what_is_ready_ends_every_run(steps: dict[UUID, StepState], dice: Random) -> None:
    for _ in range(len(steps) + 2):
        found = settled(steps)
        for one in found.skipped:
            steps[one] = replace(steps[one], status="skipped")
        if found.outcome is not None:
            break
        busy = [one for one, step in steps.items() if step.status in {"running", "waiting"}]
        assert found.ready or found.skipped or busy, "nothing to do, and not over"
        for one in (*found.ready, *busy):
            steps[one] = replace(steps[one], status=dice.choice(["succeeded", "succeeded", "failed"]))
    assert settled(steps).outcome is not None


def test_a_run_succeeds_when_its_final_steps_did() -> None:
    first = StepState(step_id=UUID(int=1), key="a", after=(), join="all")
    second = StepState(step_id=UUID(int=2), key="b", after=(UUID(int=1),), join="settled")
    places = {step.step_id: step for step in (first, second)}
    assert settle(places, {UUID(int=1): "failed", UUID(int=2): "succeeded"}).outcome == "succeeded"
    assert settle(places, {UUID(int=1): "succeeded", UUID(int=2): "failed"}).outcome == "failed"
