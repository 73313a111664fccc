"""`chargehand plan check` and `plan show` of files, without a server."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from chargehand.orchestrator.cli import exits, invoke
from chargehand.orchestrator.cli import plan as command
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.offers import Offer, Offers, ask_workers
from chargehand.orchestrator.plan_files import parse_plan

PLAN = """steps:
- key: look
  kind: script
  script: inventory
- key: each
  kind: map
  after: [look]
  map:
    items: [1, 2]
    body:
    - {key: ask, kind: agent, role: researcher, instruction: "Look \\e[31m here"}
"""


@pytest.fixture(autouse=True)
def _workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    look = Offer(effect="pure", parameters=(), required=(), takes_context=True)
    monkeypatch.setattr(command, "ask_workers", lambda: Offers(scripts={"inventory": look}, tools={}))
    monkeypatch.setenv("CHARGEHAND_HOME", str(tmp_path / "home"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def test_a_plan_that_can_run_is_said_to_and_its_hints_are_no_mistake(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["plan", "check", str(file)]) == exits.OK
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: 2 steps, can run; 1 hint",
        "  each: no step of its body takes the item, `{$item: null}`: each does the same [item-is-not-used]",
    ]
    assert invoke(["plan", "check", str(file), "--json"]) == exits.OK
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["steps"], said["problem"]) == (True, 2, None)
    assert [(hint["rule"], hint["steps"]) for hint in said["hints"]] == [("item-is-not-used", ["each"])]


def test_a_plan_without_hints_says_no_more_than_that_it_can_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("kind: map", "kind: gate").partition("  map:")[0])
    assert invoke(["plan", "check", str(tmp_path / "plan.yaml")]) == exits.OK
    assert capsys.readouterr().out == f"{tmp_path}/plan.yaml: 2 steps, can run\n"


def test_a_plan_that_cannot_run_is_refused_with_file_and_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(PLAN.replace("researcher", "wizard"))
    assert invoke(["plan", "check", str(file)]) == exits.WRONG_REQUEST
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {file}:11: In the body of 'each': Step 'ask' has unknown role 'wizard'; known: ")
    assert invoke(["plan", "check", str(file), "--json"]) == exits.WRONG_REQUEST
    answer = json.loads(capsys.readouterr().out)
    assert not answer["ok"]
    assert f"{file}:11:" in answer["problem"]


def test_workers_that_cannot_be_asked_are_mentioned_and_the_rest_is_checked(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Offers:
        raise Unavailable("Workers cannot be asked for their scripts: no module.")

    monkeypatch.setattr(command, "ask_workers", fail)
    assert invoke(["plan", "check", str(file)]) == exits.OK
    said = capsys.readouterr()
    assert "no module. There are no hints about scripts and tools." in said.err
    assert "item-is-not-used" in said.out


def test_real_workers_tell_their_scripts_and_tools_and_those_of_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(
        "from chargehand import script, tool\nprint('hello')\n"
        "@script(effect='effectful')\ndef pay(order: int, note: str = '') -> None: ...\n"
        "@tool(effect='idempotent')\ndef ticket(title: str) -> str:\n    '''Open one.'''\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")
    monkeypatch.setenv("CHARGEHAND_MODULES", '["shop"]')
    offered = ask_workers()
    assert offered.scripts["pay"] == Offer(
        effect="effectful", parameters=("order", "note"), required=("order",), takes_context=False
    )
    assert offered.tools["ticket"].effect == "idempotent"
    assert offered.scripts["inventory"].takes_context
    assert offered.tools["read_file"].effect == "pure"

    monkeypatch.setenv("CHARGEHAND_MODULES", '["shpo"]')
    with pytest.raises(Unavailable, match="No module named 'shpo'"):
        ask_workers()


def test_a_file_is_drawn_in_each_format(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plan", "show", str(file)]) == exits.OK
    assert capsys.readouterr().out.splitlines() == [
        "plan.yaml",
        "look    script inventory",
        "each    map over 2 items",
        "┊  ask  agent researcher",
    ]
    assert invoke(["plan", "show", str(file), "--format", "mermaid"]) == exits.OK
    assert capsys.readouterr().out.startswith("flowchart TD\n")
    assert invoke(["plan", "show", str(file), "--format", "svg"]) == exits.OK
    assert ElementTree.fromstring(capsys.readouterr().out).get("aria-label") == "plan.yaml"
    assert invoke(["plan", "show", str(file), "--json"]) == exits.OK
    said = json.loads(capsys.readouterr().out)
    assert parse_plan(json.dumps({"steps": said["steps"]})) == parse_plan(PLAN)


def test_what_a_plan_says_does_not_steer_the_terminal(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(PLAN.replace("kind: agent, role: researcher", "kind: gate"))
    assert invoke(["plan", "show", str(file)]) == exits.OK
    assert "asks: Look \\x1b[31m here" in capsys.readouterr().out


def test_a_drawing_is_written_where_it_is_wanted(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "plan.svg"
    assert invoke(["plan", "show", str(file), "--format", "svg", "--output", str(output)]) == exits.OK
    assert capsys.readouterr().out == ""
    ElementTree.parse(output)
    assert invoke(["plan", "show", str(file), "--output", str(tmp_path / "nowhere" / "x")]) == exits.WRONG_REQUEST
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nowhere.yaml", "folder/plan"):
        assert invoke(["plan", "show", name]) == exits.WRONG_REQUEST
        assert f"Plan {name} cannot be read" in capsys.readouterr().err
