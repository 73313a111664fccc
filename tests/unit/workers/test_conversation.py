"""The fold of a step's facts: the same in one go and continued, and what an agent's turns make of it."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.facts import (
    BreakerTripped,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    SignalReceived,
    StepClaimed,
    StepFact,
    StepReleased,
    StepWaiting,
    ToolFinished,
    ToolStarted,
    Usage,
)
from chargehand.workers import tape as tape_module
from chargehand.workers.conversation import Conversation, fold
from chargehand.workers.tape import Tape

STEP = UUID(int=7)
# Few enough that calls, tools and waits meet each other again and again.
CALLS = [UUID(int=number) for number in range(1, 4)]
TOOL_USES = ("t1", "t2")


def requested(call: UUID) -> ModelRequested:
    return ModelRequested(
        call_id=call,
        turn=1,
        model="m",
        tier="small",
        routed_because="test",
        prompt_hash="0",
        max_tokens=1,
        reserved_microusd=1,
    )


def responded(call: UUID) -> ModelResponded:
    blocks: list[dict[str, Any]] = [{"type": "tool_use", "id": use, "name": "pay", "input": {}} for use in TOOL_USES]
    return ModelResponded(
        call_id=call, model="m", content=tuple(blocks), stop_reason="tool_use", usage=Usage(), cost_microusd=1
    )


def started(use: str) -> ToolStarted:
    return ToolStarted(tool_use_id=use, tool="pay", effect="effectful", key=use, timeout_seconds=1)


def finished(use: str) -> ToolFinished:
    return ToolFinished(tool_use_id=use, tool="pay", arguments={}, outcome="ok", content="paid")


calls, uses = st.sampled_from(CALLS), st.sampled_from(TOOL_USES)
facts: st.SearchStrategy[StepFact] = st.one_of(
    st.just(StepClaimed(holder="w")),
    st.just(StepReleased(reason="drain")),
    st.just(BreakerTripped(rule="alternation", evidence=(), detail="again")),
    st.builds(requested, calls),
    st.builds(responded, calls),
    st.builds(lambda call: ModelFailed(call_id=call, error="E", retryable=True, cost_microusd=0), calls),
    st.builds(lambda call: CallAbandoned(call_id=call, charged_microusd=1), calls),
    st.builds(started, uses),
    st.builds(finished, uses),
    st.builds(lambda wait: StepWaiting(wait_id=wait, reason="human", question="?"), calls),
    st.builds(
        lambda wait, choice: SignalReceived(wait_id=wait, choice=choice, body="so be it"),
        calls,
        st.sampled_from(["retry", "answer", "skip"]),
    ),
)


@given(st.lists(facts, max_size=30), st.data())
def test_a_fold_that_goes_on_gives_what_one_fold_gives(history: list[StepFact], data: st.DataObject) -> None:
    cut = data.draw(st.integers(min_value=0, max_value=len(history)))
    so_far = fold(history[:cut])
    assert fold(history[cut:], onto=so_far, from_position=cut) == fold(history)


class Paper:
    """A recorder that keeps nothing: the tape knows what it wrote."""

    history: tuple[StepFact, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return lambda *facts: None


@given(st.lists(st.tuples(st.sampled_from(["commit", "hold", "look", "request", "flush"]), facts), max_size=30))
def test_a_tape_knows_what_all_its_facts_amount_to_whenever_it_is_asked(moves: list[tuple[str, StepFact]]) -> None:
    tape = Tape(Paper(), STEP)
    written: list[StepFact] = []
    held: list[ToolFinished] = []
    for move, fact in moves:
        if move == "commit":
            tape.commit(fact, lambda _: None)
            written.append(fact)
        elif move == "hold" and isinstance(fact, ToolFinished):
            tape.hold(fact)
            held.append(fact)
        elif move == "request":
            tape.request(requested(CALLS[0]))
            written += [*held, requested(CALLS[0])]
            held.clear()
        elif move == "flush":
            tape.flush()
            written += held
            held.clear()
        else:
            assert tape.conversation == fold([*written, *held])
    assert tape.conversation == fold([*written, *held])


def test_a_committed_fact_is_folded_once_however_often_the_tape_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    folded: list[StepFact] = []

    def counting(facts: Iterable[StepFact], **rest: Any) -> Conversation:
        folded.extend(facts)
        return fold(facts, **rest)

    monkeypatch.setattr(tape_module, "fold", counting)
    tape = Tape(Paper(), STEP)
    for _turn in range(50):
        call = requested(CALLS[0])
        for fact in (call, responded(call.call_id), started("t1"), finished("t1")):
            tape.commit(fact, lambda _: None)
            assert tape.conversation.turns == _turn + (fact is not call)
    assert len(folded) == 200
