"""The plans of `examples/plans`, each submitted to a real laptop whose workers know their scripts."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import pytest
from chaos import machine as chaos_machine
from chaos.ledger import Ledger
from chaos.machine import Fleet, Machine, machine, until
from pydantic import JsonValue

from chargehand.orchestrator import verification
from chargehand.orchestrator.cli import invoke
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.errors import RunFailed
from chargehand.orchestrator.facts import StepFinished, StepWaiting, ToolFinished
from chargehand.orchestrator.plan import Plan, step_id
from chargehand.orchestrator.plan_files import load_plan
from chargehand.orchestrator.settings import load_settings

pytestmark = pytest.mark.system

PLANS = Path(__file__).parents[2] / "examples" / "plans"
RUN_SECONDS = 60.0
ENVIRONMENT = chaos_machine.environment


def with_the_examples(ledger: Ledger) -> dict[str, str]:
    found = ENVIRONMENT(ledger)
    # A checkout that is not installed is found by the path of this process.
    folders = [str(PLANS), found["PYTHONPATH"], *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**found, "PYTHONPATH": os.pathsep.join(folders), "CHARGEHAND_MODULES": json.dumps(["steps"])}


@pytest.fixture(scope="module")
def laptop(home: Path) -> Iterator[Machine]:
    with (
        mock.patch.object(chaos_machine, "environment", with_the_examples),
        machine(home, Fleet(call_seconds=0.0, forged=True)) as up,
    ):
        yield up


def submitted(laptop: Machine, name: str, **options: Any) -> RunHandle:
    return laptop.client.submit(plan=load_plan(PLANS / f"{name}.yaml"), **options)


def result_of(laptop: Machine, run: RunHandle) -> JsonValue:
    """What the run came to; its journal is whole and says the same as the tables."""
    result = run.wait(RUN_SECONDS)
    with laptop.client.session() as session:
        assert verification.verify_run(session, run.run_id).objections == ()
    return result


def statuses(run: RunHandle) -> dict[str, str]:
    return {step.key: step.status for step in run.steps()}


def test_a_branch_takes_the_way_that_its_script_says(laptop: Machine) -> None:
    run = submitted(laptop, "branch")
    paid = f"7.00 paid under {str(step_id(run.run_id, 'refund'))[:8]}"
    assert result_of(laptop, run) == {"refund": paid}
    assert statuses(run) == {
        "order": "succeeded", "size": "succeeded", "size/choose": "succeeded", "refund": "succeeded", "ask": "skipped",
        "file": "succeeded",
    }  # fmt: skip


def test_a_branch_takes_the_way_that_a_model_finds_likely(laptop: Machine) -> None:
    run = submitted(laptop, "branch_by_odds")
    assert result_of(laptop, run) == {"order_id": 7, "cents": 700}
    assert statuses(run)["reason/small"] == "succeeded"
    assert "reason/large" not in statuses(run)


def test_a_map_counts_every_shelf_but_the_one_that_cannot_be_reached(laptop: Machine) -> None:
    run = submitted(laptop, "map")
    assert result_of(laptop, run) == {"parcels": 250, "shelves": 6, "not_counted": 1}
    assert statuses(run)["each/2/count"] == "failed"


def test_rounds_are_repeated_until_one_passes_each_on_what_the_one_before_gave(laptop: Machine) -> None:
    run = submitted(laptop, "repeat")
    found = result_of(laptop, run)
    assert isinstance(found, dict)
    assert (found["rounds"], found["passed"]) == (4, True)
    assert found["verdict"] == {"passed": True, "guess": pytest.approx(2**0.5)}


def test_agents_code_until_the_verdict_of_test_and_audit_passes_each_round_on_the_evidence_of_the_one_before(
    laptop: Machine, workspace: Path
) -> None:
    run = submitted(laptop, "repeat_agents", workspace=workspace)
    lines = result_of(laptop, run)
    # A round sees the first missing name only: what the second has to do is in the verdict on the first.
    assert isinstance(lines, list)
    assert lines[:3] == ["import json", "import math", ""]
    ends = {event.step_id: event.fact for event in run.events(follow=False) if isinstance(event.fact, StepFinished)}
    verdicts = [ends[step_id(run.run_id, f"mend/{number}/judge")].result for number in (1, 2)]
    assert [verdict["passed"] for verdict in verdicts if isinstance(verdict, dict)] == [False, True]
    assert "mend/3/code" not in statuses(run)
    first, second = (ends[step_id(run.run_id, f"mend/{number}/code")] for number in (1, 2))
    for end in (first, second):
        assert isinstance(end.result, dict)
        assert end.result["human_tasks"] == []
        assert end.commit
    assert first.commit != second.commit


def test_a_gate_waits_for_a_person(laptop: Machine) -> None:
    run = submitted(laptop, "gate")
    until(lambda: laptop.client.escalations(run.run_id), RUN_SECONDS, "the gate opens")
    [asked] = laptop.client.escalations(run.run_id)
    assert (asked.question, asked.options) == ("Send the offer?", ("approve", "reject"))
    assert laptop.client.answer(asked, "approve")
    assert result_of(laptop, run) == f"offer of 14.70 EUR sent under {str(step_id(run.run_id, 'send'))[:8]}"


def test_a_gate_that_is_refused_keeps_what_it_guards_from_running(laptop: Machine) -> None:
    run = submitted(laptop, "gate")
    until(lambda: laptop.client.escalations(run.run_id), RUN_SECONDS, "the gate opens")
    laptop.client.answer(laptop.client.escalations(run.run_id)[0], "reject")
    with pytest.raises(RunFailed):
        run.wait(RUN_SECONDS)
    assert statuses(run)["send"] == "skipped"


def test_a_merge_makes_one_commit_of_what_two_steps_changed(laptop: Machine, workspace: Path) -> None:
    run = submitted(laptop, "merge", workspace=workspace)
    assert result_of(laptop, run) == ["CHANGES", "LICENSE", "login.py"]


def test_a_conflict_of_parallel_changes_becomes_a_step_that_keeps_both(laptop: Machine, workspace: Path) -> None:
    run = submitted(laptop, "merge_conflict", workspace=workspace)
    assert result_of(laptop, run) == ["09:00 opened", "18:00 closed"]
    edits = [
        event.fact
        for event in run.events(follow=False)
        if isinstance(event.fact, ToolFinished) and event.fact.tool == "edit_file"
    ]
    # It ends in a commit whose sha is in the journal: what follows starts from there.
    assert [edit.outcome for edit in edits] == ["ok"]
    assert edits[0].commit
    assert statuses(run)["merge/resolve"] == "succeeded"


def test_an_any_join_goes_on_with_the_first_and_cancels_the_other(laptop: Machine) -> None:
    run = submitted(laptop, "any_join")
    assert result_of(laptop, run) == {"near": "42, says the near one"}
    assert statuses(run) == {"near": "succeeded", "far": "cancelled", "use": "succeeded"}


def test_a_planner_lets_the_rest_go_on_without_a_step_that_failed_for_good(laptop: Machine) -> None:
    run = submitted(laptop, "replan", replans=1)
    assert result_of(laptop, run) == {"order": {"order_id": 7, "cents": 700}}
    assert statuses(run) == {
        "order": "succeeded", "carrier": "superseded", "file": "superseded",
        "replan:1": "succeeded", "file~2": "succeeded",
    }  # fmt: skip


def test_the_same_plan_without_a_planner_fails_with_its_step(laptop: Machine) -> None:
    with pytest.raises(RunFailed, match="no carrier knows the parcel of order 7"):
        submitted(laptop, "replan").wait(RUN_SECONDS)


def test_an_agent_answers_with_quotes_that_a_script_compares_with_the_files(laptop: Machine, workspace: Path) -> None:
    run = submitted(laptop, "agent", workspace=workspace)
    found = result_of(laptop, run)
    assert "check_password" in json.dumps(found)


def colleagues_of(run: RunHandle) -> list[tuple[str, str]]:
    """Who was asked, by key, and how that ended."""
    return sorted((key, status) for key, status in statuses(run).items() if key.startswith("answer/"))


def checked(laptop: Machine, run: RunHandle) -> dict[str, Any]:
    """The only answer, with what the script found of its quotes."""
    found = result_of(laptop, run)
    assert isinstance(found, dict)
    [answer] = found["answers"]
    return dict(answer)


def test_an_agent_asks_a_colleague_twice_and_puts_the_answers_together(laptop: Machine, workspace: Path) -> None:
    run = submitted(laptop, "delegate", workspace=workspace)
    answer = checked(laptop, run)
    assert (answer["quotes_verified"], answer["quotes_refuted"]) == (2, [])
    assert answer["answer"]["question"] == "Where are passwords checked? Which shop has the password?"
    assert colleagues_of(run) == [("answer/researcher-1", "succeeded"), ("answer/researcher-2", "succeeded")]
    # It was suspended for each, and held no worker meanwhile.
    waits = [event.fact for event in run.events(follow=False) if isinstance(event.fact, StepWaiting)]
    assert [(wait.reason, wait.child and wait.child.key) for wait in waits] == [
        ("children", "answer/researcher-1"), ("children", "answer/researcher-2"),
    ]  # fmt: skip


def test_what_a_colleague_makes_of_a_task_that_is_handed_off_is_the_agents_result(
    laptop: Machine, workspace: Path
) -> None:
    run = submitted(laptop, "hand_off", workspace=workspace)
    answer = checked(laptop, run)
    assert (answer["quotes_verified"], answer["quotes_refuted"]) == (1, [])
    assert colleagues_of(run) == [("answer/researcher-1", "succeeded")]
    ends = {
        event.step_id: event.fact.result for event in run.events(follow=False) if isinstance(event.fact, StepFinished)
    }
    own, theirs = (ends[step_id(run.run_id, key)] for key in ("answer", "answer/researcher-1"))
    assert own == theirs is not None


def test_a_run_is_drawn_with_the_states_of_its_steps(
    laptop: Machine, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = submitted(laptop, "map")
    result_of(laptop, run)
    monkeypatch.setenv("CHARGEHAND_HOME", str(home))
    load_settings.cache_clear()

    def shown(form: str) -> str:
        assert invoke(["plan", "show", str(run.run_id), "--format", form]) == 0
        return capsys.readouterr().out

    assert [line.split()[:4] for line in shown("text").splitlines()[1:6]] == [
        ["✓", "shelves", "script", "list_shelves"],
        ["✓", "each", "map", "over"],
        ["┊", "✓", "0/count", "script"],
        ["┊", "✓", "1/count", "script"],
        ["┊", "✗", "2/count", "failed"],
    ]
    texts = ElementTree.fromstring(shown("svg")).iter("{http://www.w3.org/2000/svg}text")
    states = [text.text for text in texts if text.get("class") == "state"]
    assert (states.count("succeeded"), states.count("failed")) == (9, 1)
    assert re.search("^  class n5 failed$", shown("mermaid"), re.MULTILINE)


def test_the_plans_in_python_are_those_in_the_files() -> None:
    sys.path.insert(0, str(PLANS))
    try:
        import written
    finally:
        sys.path.remove(str(PLANS))
    for name, write in written.PLANS.items():
        assert load_plan(PLANS / f"{name}.yaml") == Plan(steps=write().steps), name
    assert {file.stem for file in PLANS.glob("*.yaml")} == {*written.PLANS, "agent"}
