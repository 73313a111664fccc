"""What the journal says of a step whose worker was killed."""

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

from chargehand.orchestrator.cli.killing import judge_step, sarif_findings
from chargehand.orchestrator.facts import (
    CallAbandoned,
    ModelRequested,
    ModelResponded,
    StepClaimed,
    StepFinished,
    StepRecovered,
    Usage,
)
from chargehand.orchestrator.views import Event

RUN, STEP = UUID("0199aaaa-0000-7000-8000-000000000001"), UUID("0199aaaa-0000-7000-8000-000000000002")


def asked(turn, call):
    return ModelRequested(
        call_id=call,
        turn=turn,
        model="m",
        tier="small",
        routed_because="role",
        prompt_hash="",
        max_tokens=1,
        reserved_microusd=1,
    )


def answered(call):
    return ModelResponded(call_id=call, model="m", content=(), stop_reason="tool_use", usage=Usage(), cost_microusd=0)


def stream(*facts):
    now = datetime.now(UTC)
    return [
        Event(run_id=RUN, step_id=STEP, seq=seq, at=now, kind=fact.kind, fact=fact)
        for seq, fact in enumerate(facts, start=1)
    ]


def test_a_step_that_was_never_lost_is_no_resumption():
    one = uuid4()
    facts = stream(StepClaimed(holder="a"), asked(1, one), answered(one), StepFinished(outcome="succeeded"))
    assert judge_step("triage-1", facts) is None


def test_a_step_that_goes_on_behind_its_recorded_answers_asks_none_again():
    one, lost, two = uuid4(), uuid4(), uuid4()
    resumed = judge_step(
        "triage-1",
        stream(
            StepClaimed(holder="a"),
            asked(1, one),
            answered(one),
            asked(2, lost),
            StepRecovered(crashes=1),
            StepClaimed(holder="b"),
            CallAbandoned(call_id=lost, charged_microusd=1),
            asked(2, two),
            answered(two),
            StepFinished(outcome="succeeded"),
        ),
    )
    assert resumed is not None
    assert (resumed.epoch, resumed.answers_before, resumed.resumed_at_turn) == (2, 1, 2)
    assert resumed.recorded_answers_asked_again == 0


def test_an_answer_that_was_asked_again_is_counted():
    one, again = uuid4(), uuid4()
    resumed = judge_step(
        "triage-1",
        stream(
            StepClaimed(holder="a"),
            asked(1, one),
            answered(one),
            StepClaimed(holder="b", takeover=True),
            asked(1, again),
        ),
    )
    assert resumed is not None
    assert resumed.recorded_answers_asked_again == 1


def test_a_step_that_was_lost_before_its_end_was_written_needs_no_answer():
    one = uuid4()
    resumed = judge_step(
        "triage-1",
        stream(
            StepClaimed(holder="a"),
            asked(1, one),
            answered(one),
            StepClaimed(holder="b", takeover=True),
            StepFinished(outcome="succeeded"),
        ),
    )
    assert resumed is not None
    assert resumed.resumed_words == "ended without a further answer"


def test_two_results_are_compared_without_what_differs_between_runs(tmp_path):
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    result = {"ruleId": "sql-injection", "level": "error", "locations": [{"line": 1}], "guid": "1"}
    first.write_text(json.dumps({"runs": [{"results": [result]}]}))
    second.write_text(json.dumps({"runs": [{"results": [{**result, "guid": "2"}]}]}))
    third.write_text(json.dumps({"runs": [{"results": [{**result, "level": "note"}]}]}))
    assert sarif_findings(first) == sarif_findings(second) != sarif_findings(third)
    assert sarif_findings(tmp_path / "missing") is None
