"""The checker objects to every way in which a story can be wrong, and to nothing in one where all is well."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from chaos.checker import judge
from chaos.evidence import Settlement

from chargehand.orchestrator.facts import (
    ModelFailed,
    ReservationsCharged,
    ReservationsReturned,
    RunFinished,
    RunTold,
    SignalReceived,
    StepRecovered,
    StepReleased,
    StepsSkipped,
)
from tests.unit.chaos.stories import (
    RUN,
    Story,
    call,
    call_id,
    claimed,
    effect,
    finished,
    knock,
    requested,
    responded,
    started,
    step_id,
    story,
    strike,
    tool_finished,
)

Change = Callable[[Story], None]


def changed(change: Change) -> list[str]:
    told = story()
    change(told)
    return judge(told.evidence())


def test_the_checker_is_content_with_a_story_in_which_all_is_well() -> None:
    assert judge(story().evidence()) == []


def as_tables(where: str, **values: object) -> Change:
    """The tables say otherwise than the journal."""
    return lambda told: told.tables.setdefault(where, {}).update(values)


def as_evidence(**values: object) -> Change:
    """Something else was found."""
    return lambda told: told.rest.update(values)


def many(*changes: Change) -> Change:
    def all_of_them(told: Story) -> None:
        for change in changes:
            change(told)

    return all_of_them


def write(stream: str | None, at: float, epoch: int, fact: object) -> Change:
    return lambda told: told.write(stream, at, epoch, fact)  # type: ignore[arg-type]


def remove(stream: str | None, kind: str, nth: int = 0) -> Change:
    return lambda told: told.remove(stream, kind, nth)


def change(stream: str | None, kind: str, nth: int = 0, **fields: object) -> Change:
    return lambda told: told.change(stream, kind, nth, **fields)  # type: ignore[arg-type]


ENDS = {
    "nothing at all": (as_evidence(accepted=frozenset()), "there is nothing to judge"),
    "a run that goes on": (as_tables("run", status="running"), "has not ended: it is running"),
    "a run that goes on and is sealed": (as_tables("run", status="running"), "is running and is in its tenant's chain"),
    "a run that is gone": (as_evidence(accepted=frozenset({RUN, UUID(int=9)})), "was accepted and is gone"),
    "a submission": (
        as_evidence(accepted=frozenset({RUN, UUID(int=9)}), submissions=frozenset({UUID(int=9)})),
        "is still a submission",
    ),
    "another outcome": (as_evidence(outcomes={RUN: {"failed"}}), "is succeeded"),
    "two ends": (write(None, 62, 0, RunFinished(outcome="succeeded")), "ended 2 times"),
    "no end": (remove(None, "run.finished"), "ended 0 times"),
    "another end": (change(None, "run.finished", outcome="failed"), "its journal says failed"),
    "a row after the end": (write(None, 62, 0, RunTold(message="Wait")), "went on after its end"),
    "a step that goes on": (as_tables("end", status="ready"), "its step 'end' is ready"),
    "a final step that failed": (
        many(change("end", "step.finished", outcome="failed"), as_tables("end", status="failed")),
        "its final step 'end' is failed",
    ),
}

JOURNAL = {
    "another status": (as_tables("load", status="failed"), "'load' is failed, and its journal says succeeded"),
    "another status than the reducer's": (
        as_tables("load", status="failed"),
        "'load' folds to succeeded, epoch 1, row 2",
    ),
    "another plan": (as_tables("run", plan_version=2), "folds to succeeded, row 3, plan 1"),
    "other edges": (as_evidence(edges=frozenset()), "step 'end' has other predecessors in its journal"),
    "a step that came too early": (
        change("end", "step.claimed", at=48.5),
        "claimed at epoch 1 before 'post' had ended",
    ),
    "a write after the end": (write("load", 4, 1, finished()), "was written after the step had succeeded"),
    "a zombie's write": (change("post", "tool.finished", epoch=1), "is of epoch 1, and the step was at epoch 2"),
    "an epoch claimed twice": (change("post", "step.claimed", 1, epoch=1), "claims epoch 1 after epoch 1"),
    "an epoch left out": (change("end", "step.claimed", epoch=2), "claims epoch 2 after epoch 0"),
    "another epoch": (as_tables("post", epoch=4), "is at epoch 4, and its stream claims 3"),
    "a recovery too early": (change("post", "step.recovered", at=20), "was taken away (row 5, step.recovered)"),
    "a claim over a live lease": (
        many(remove("load", "step.finished"), write("load", 2, 2, claimed(12, takeover=True, crashes=1))),
        "was taken away (row 2, step.claimed)",
    ),
    "a claim of what is held": (
        many(remove("load", "step.finished"), write("load", 20, 2, claimed(12))),
        "was claimed (row 2) while somebody held it",
    ),
    "a crash that was not counted": (
        many(change("post", "step.recovered", 1, crashes=1), change("post", "step.claimed", 2, crashes=1)),
        "lost 2 workers in a row by row 9, which counts 1",
    ),
    "a count in the table only": (as_tables("post", crashes=3), "its table counts 3"),
    "too many crashes": (
        many(
            *(write("end", 51 + 20 * n, n, StepRecovered(crashes=n)) for n in range(1, 6)),
            *(write("end", 52 + 20 * n, n + 1, claimed(13, crashes=n)) for n in range(1, 6)),
            change("end", "step.finished", at=180, epoch=6),
            as_tables("end", crashes=5),
        ),
        "lost 5 workers in a row and nobody was asked",
    ),
}

MONEY = {
    "an open reservation": (as_tables("post", reserved_microusd=5, allotment_microusd=300), "still reserves 5"),
    "more than the journal says": (as_tables("post", spent_microusd=190, allotment_microusd=190), "spent 190"),
    "more than was drawn": (as_tables("post", allotment_microusd=10), "spent more than the 10 it had drawn"),
    "more than the budget": (as_tables("budget", cap_microusd=100), "spent 200 of 100"),
    "a draw that is not returned": (as_tables("budget", drawn_microusd=777), "has drawn 777"),
    "a cost above its reservation": (change("post", "model.responded", cost_microusd=101), "cost 101 and had reserved"),
}

EFFECTS = {
    "an effect too few": (lambda told: told.effects.pop(), "step 'end' succeeded and took no effect"),
    "an effect under another key": (
        lambda told: told.effects.append(effect("end", 52.5, key="other")),
        "took effect under key other, which is not its own",
    ),
    "an effect that nobody announced": (
        lambda told: told.effects.append(effect("post", 26.7, key="k#2")),
        "under key k#2, which its journal never announced",
    ),
    "an effect before it was announced": (
        lambda told: told.effects.insert(1, effect("post", 7.5, key="k")),
        "before its journal announced it",
    ),
    "an effect that cannot be taken back, twice": (
        lambda told: told.effects.extend(effect("end", at, kind="effectful") for at in (52.1, 52.2)),
        "took effect 2 times under key",
    ),
    "an effect of a stranger": (lambda told: told.effects.append(effect("nobody", 4)), "unknown step 'nobody'"),
    "an effect whose result is lost": (remove("post", "tool.finished"), "its result was never recorded"),
    "one use of a tool under two keys": (write("post", 26.1, 2, started("k2")), "under 2 keys"),
    "a tool that ran again": (write("post", 27.5, 2, tool_finished()), "recorded 2 results"),
    "an effect after the holder's end": (
        lambda told: told.effects.append(effect("end", 54, pid=13)),
        "the holder of epoch 1 of step 'end' took effect after row 2 (step.finished)",
    ),
    "an effect of somebody who has claimed nothing": (
        lambda told: told.effects.append(effect("end", 52.5, pid=99)),
        "step 'end' took effect in process 99, which had not claimed it",
    ),
    "an effect without any claim": (as_tables("end", epoch=0), "step 'end' took effect and was never claimed"),
    "an attempt without a claim": (lambda told: told.knocks.append(knock("load", 2.5)), "began 2 times"),
    "a script with two keys": (lambda told: told.knocks.append(knock("load", 2.5, key="k")), "knocked with 2 keys"),
    "a beginning before what it waits for": (
        lambda told: told.knocks.append(knock("end", 8)),
        "step 'end' began before 'post' had taken effect",
    ),
}

CALLS = {
    "a call that nobody reserved": (lambda told: told.calls.append(call(4, 48.5)), "was never reserved"),
    "a call without a name": (
        lambda told: told.calls.append(replace(call(4, 48.5), run="", call="")),
        "call (nameless) reached a server",
    ),
    "a call sent twice": (lambda told: told.calls.append(call(1, 6.5)), "was sent 2 times"),
    "a call sent too early": (
        lambda told: told.calls.__setitem__(0, call(1, 5.5)),
        "was sent before it was reserved",
    ),
    "an answer that nobody gave": (lambda told: told.calls.pop(0), "has an answer that no server gave"),
    "an answer with other tokens": (
        lambda told: told.calls.__setitem__(0, replace(call(1, 6.2), output_tokens=70)),
        "settled for other tokens than the server counted",
    ),
    "a call settled twice": (write("post", 46.5, 3, responded(2)), "was settled 2 times"),
    "a call charged at less": (change("post", "call.abandoned", charged_microusd=1), "reserved 100 and was charged 1"),
    "a bill that nobody paid": (
        many(
            remove("post", "call.abandoned"),
            write("post", 28.8, 2, ModelFailed(call_id=call_id(2), error="cut", retryable=True, cost_microusd=0)),
            change("post", "step.recovered", 1, crashes=1),
            change("post", "step.claimed", 2, crashes=1),
        ),
        "was billed by the server and settled at nothing",
    ),
    "two calls in flight at once": (write("post", 28.5, 2, requested(4)), "1 more were in flight under one claim"),
    "a call given up by a worker that lived": (
        many(
            change("post", "step.claimed", 2, crashes=1),
            remove("post", "step.recovered", 1),
            write("post", 30, 2, StepReleased(reason="drain")),
        ),
        "was given up by a worker that lived (step.released)",
    ),
    "a call in flight at the end": (
        many(
            remove("post", "call.abandoned"),
            write(None, 59, 0, ReservationsCharged(charged_microusd={step_id("post"): 1})),
        ),
        "left 100 in flight at its end, and 1 was charged",
    ),
    "an answer paid for again": (
        lambda told: told.calls.__setitem__(2, call(3, 47.2, prompt="prompt 1")),
        "paid 2 times for the answer to one prompt",
    ),
}


def come_late(told: Story) -> None:
    """The call that process 12 left in flight had cost 30 of the 100 that were charged for it."""
    told.write(None, 58, 0, ReservationsReturned(returned_microusd={step_id("post"): 70}, calls=(call_id(2),)))
    told.tables["post"] = {"spent_microusd": 130, "allotment_microusd": 130}
    told.rest["settlements"] = [LATE]


LATE = Settlement(run=RUN, step=step_id("post"), call=call_id(2), cost_microusd=30, booked="run")
GIVEN_BACK = "reservations.returned"
LATE_ANSWERS = {
    "a late answer that nobody has accounted for": (
        as_evidence(settlements=[replace(LATE, booked=None)]),
        "was never accounted for",
    ),
    "a late answer in the table only": (as_evidence(settlements=[LATE]), "its run's stream says otherwise"),
    "a late answer settled twice": (
        many(come_late, as_evidence(settlements=[LATE, LATE])),
        "was settled late 2 times",
    ),
    "a late answer given back twice": (
        many(come_late, change(None, GIVEN_BACK, calls=(call_id(2), call_id(2)))),
        "was given back 2 times",
    ),
    "more given back than was due": (
        many(come_late, change(None, GIVEN_BACK, returned_microusd={step_id("post"): 71})),
        "gave back another sum than 70",
    ),
    "money given back for an answered call": (
        many(come_late, change(None, GIVEN_BACK, calls=(call_id(1),))),
        "which was not in flight",
    ),
}

REST = {
    "a recovery too late": (
        lambda told: told.strikes.append(strike(13, 51.2)) or take_up_late(told),
        "step 'end' ran again 21.8 s after its process was killed",
    ),
    "something left over": (as_evidence(leftovers=["clone a/b/1 is left over"]), "clone a/b/1 is left over"),
}


def take_up_late(told: Story) -> None:
    """The last step is lost at 51.2 s, and somebody has it again at 73 s."""
    told.write("end", 70, 1, StepRecovered(crashes=1))
    told.write("end", 73, 2, claimed(14, crashes=1))
    told.change("end", "step.finished", at=75, epoch=2)
    told.tables["end"] = {"crashes": 1}


@pytest.mark.parametrize(
    ("wrong", "objection"),
    [
        pytest.param(*line, id=name)
        for group in (ENDS, JOURNAL, MONEY, EFFECTS, CALLS, LATE_ANSWERS, REST)
        for name, line in group.items()
    ],
)
def test_the_checker_objects_to_a_wrong_story(wrong: Change, objection: str) -> None:
    told = changed(wrong)
    assert any(objection in line for line in told), told


# --- hashes: what is tampered with after it was written ---------------------------------------------------------------


def tampered(kind: str, **values: object) -> list[str]:
    evidence = story().evidence()
    journal = [replace(row, **values) if row.kind == kind else row for row in evidence.journal]  # type: ignore[arg-type]
    return judge(replace(evidence, journal=journal))


def test_the_checker_objects_to_a_body_that_was_edited() -> None:
    body = finished().model_dump_json().replace("null", "1")
    assert any("is not the one that was hashed" in line for line in tampered("step.finished", body=body))


def test_the_checker_objects_to_a_column_that_was_edited() -> None:
    assert any("does not follow from the one before" in line for line in tampered("model.responded", epoch=9))


def test_the_checker_objects_to_a_stream_that_was_cut_off() -> None:
    evidence = story().evidence()
    told = judge(replace(evidence, journal=evidence.journal[:-1]))
    assert any("ends at row 2, its table says 3" in line for line in told)
    assert any("the end of run" in line and "is not in its tenant's chain" in line for line in told)


def test_the_checker_objects_to_a_row_that_is_there_twice() -> None:
    evidence = story().evidence()
    told = judge(replace(evidence, journal=[*evidence.journal[:2], evidence.journal[1], *evidence.journal[2:]]))
    assert any("has row 2 where row 3 belongs" in line for line in told)


@pytest.mark.parametrize(
    ("wrong", "objection"),
    [
        (lambda told: setattr(told, "is_anchored", False), "is not in its tenant's chain"),
        (remove(None, "steps.anchored"), "the end of step 'load' is not anchored"),
        (as_evidence(audit_key=b"another key"), "is not sealed with this machine's key"),
    ],
)
def test_the_checker_objects_to_an_end_that_is_not_anchored(wrong: Change, objection: str) -> None:
    assert any(objection in line for line in changed(wrong))


def test_the_checker_objects_to_a_chain_whose_places_do_not_follow() -> None:
    evidence = story().evidence()
    told = judge(replace(evidence, anchors=[replace(evidence.anchors[0], run_seq=1)]))
    assert any("does not follow from the one before" in line for line in told)


def test_the_checker_objects_to_a_step_that_the_journal_does_not_know() -> None:
    evidence = story().evidence()
    unknown = replace(evidence.steps[0], id=UUID(int=9), key="unknown")
    assert any(
        "has 4 steps and folds to 3" in line for line in judge(replace(evidence, steps=[*evidence.steps, unknown]))
    )


# --- what is no fault -------------------------------------------------------------------------------------------------


def test_a_person_may_let_an_effect_happen_again() -> None:
    def again(told: Story) -> None:
        told.effects[2:2] = [effect("post", at, key="k", kind="effectful") for at in (26.4, 26.45)]
        told.write("post", 26.3, 2, SignalReceived(wait_id=UUID(int=1), choice="retry"))

    assert changed(again) == []


def test_a_process_may_take_effect_under_a_later_claim_of_its_own() -> None:
    def again(told: Story) -> None:
        told.write("end", 51.6, 1, StepReleased(reason="retry"))
        told.write("end", 51.8, 2, claimed(13))
        told.change("end", "step.finished", epoch=2)

    assert changed(again) == []


def test_a_recovery_is_measured_from_the_last_strike_in_its_way() -> None:
    def interrupted(told: Story) -> None:
        take_up_late(told)
        # The only supervisor was frozen meanwhile.
        frozen = replace(strike(99, 52), what="freeze supervisor", until=strike(99, 60).at)
        told.strikes += [strike(13, 51.2), frozen]

    assert not any("ran again" in line for line in changed(interrupted))


def test_a_step_may_begin_before_the_effect_of_a_zombie_whom_a_person_has_skipped() -> None:
    def late(told: Story) -> None:
        told.effects[:] = [replace(one, at=one.at + 30) if one.step == "load" else one for one in told.effects]

    def skipped(told: Story) -> None:
        late(told)
        told.write("load", 3, 1, SignalReceived(wait_id=call_id(9), choice="skip", by="somebody"))

    early = "began before 'load' had taken effect"
    assert any(early in line for line in changed(late))
    assert not any(early in line for line in changed(skipped))


def test_what_a_late_answer_did_not_cost_is_given_back() -> None:
    assert changed(come_late) == []


def test_a_call_in_flight_at_the_end_of_its_step_is_charged_by_the_run() -> None:
    def left(told: Story) -> None:
        told.remove("post", "call.abandoned")
        told.write(None, 59, 0, ReservationsCharged(charged_microusd={step_id("post"): 100}))
        told.tables["post"] = {"spent_microusd": 200, "allotment_microusd": 200}

    assert changed(left) == []


def test_a_step_that_was_cancelled_before_its_turn_has_no_stream() -> None:
    def cancelled(told: Story) -> None:
        for kind in ("step.claimed", "step.finished"):
            told.remove("end", kind)
        told.knocks.pop(), told.effects.pop()
        skipped = StepsSkipped(steps=(step_id("end"),), outcome="cancelled", reason="enough")
        told.write(None, 55, 0, skipped)
        told.change(None, "run.finished", at=56, outcome="cancelled")
        told.tables = {"run": {"status": "cancelled"}, "end": {"status": "cancelled"}}

    assert changed(cancelled) == []
