"""How a graph is drawn, in place and as lines, whatever its size and whatever its texts contain."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import pytest
from rich.console import Console

from chargehand.orchestrator.cli.following import Look
from chargehand.orchestrator.cli.screens import Lines, opened_screen
from chargehand.orchestrator.cli.tree import draw, lines_of
from chargehand.orchestrator.views import RunView, StepView

RUN = UUID("0199aaaa-0000-7000-8000-00001a2b3c4d")
START = datetime(2026, 1, 1, 12, tzinfo=UTC)


def step(key, *after, **fields):
    known = {
        "step_id": uuid5(RUN, key),
        "key": key,
        "title": "",
        "kind": "script",
        "pool": "research",
        "label": key,
        "status": "pending",
        "epoch": 0,
        "crashes": 0,
        "turns": 0,
        "spent_microusd": 0,
        "after": after,
        "holder": None,
        "wait_reason": None,
        "started_at": None,
        "finished_at": None,
        "error": "",
    }
    return StepView(**{**known, **fields})


def look(*steps, notes=(), progress=None, **fields):
    known = {
        "run_id": RUN,
        "status": "running",
        "goal": "Audit",
        "priority": 0,
        "steps": len(steps),
        "steps_ended": 0,
        "spent_microusd": 0,
        "cap_microusd": 500_000,
        "created_at": START,
        "finished_at": None,
        "reason": "",
    }
    run = RunView(**{**known, **fields})
    return Look(run=run, steps=steps, progress=progress or {}, notes=notes, at=START + timedelta(seconds=12))


def drawn(one, *, height=None, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(draw(one, height=height))
    return console.file.getvalue()


def shape(*steps):
    return [f"{line.branches}{line.step.key}" for line in lines_of(steps)]


def test_a_line_of_steps_is_drawn_straight_down():
    assert shape(step("a"), step("b", "a"), step("c", "b")) == ["a", "b", "c"]


def test_a_fan_out_is_indented_and_what_waits_for_all_of_it_stands_beside_it():
    steps = [step("plan"), step("x", "plan"), step("y", "plan"), step("join", "x", "y"), step("end", "join")]
    assert shape(*steps) == ["plan", "├─ x", "├─ y", "└─ join", "   end"]


def test_a_branch_that_goes_on_stands_below_its_own_head():
    steps = [step("plan"), step("before", "plan"), step("fix", "before"), step("scan", "plan"), step("t1", "scan")]
    steps += [step("t2", "scan"), step("report", "fix", "t1", "t2")]
    assert shape(*steps) == [
        "plan",
        "├─ before",
        "│  fix",
        "├─ scan",
        "│  ├─ t1",
        "│  └─ t2",
        "└─ report",
    ]


def test_independent_steps_are_all_drawn():
    assert shape(step("a"), step("b"), step("c", "a", "b")) == ["a", "b", "c"]


def test_two_thousand_steps_in_a_line_or_in_a_star_are_drawn():
    line = [step("s0"), *(step(f"s{number}", f"s{number - 1}") for number in range(1, 2000))]
    star = [step("s0"), *(step(f"s{number}", "s0") for number in range(1, 2000))]
    assert len(lines_of(line)) == len(lines_of(star)) == 2000


def test_a_running_step_shows_what_it_is_doing_and_for_how_long():
    running = step(
        "scan", status="running", epoch=1, started_at=START + timedelta(seconds=2), title="Run the analysers"
    )
    shown = drawn(look(running, progress={"scan": "bandit: 12 of 40 files"}))
    assert "● scan" in shown
    assert "10 s" in shown
    assert "bandit: 12 of 40 files" in shown
    assert "Run 1a2b3c4d  running  0 of 1 steps  $0.0000 of $0.5000  12 s" in shown


def test_a_taken_over_step_says_which_attempt_it_is():
    assert "(attempt 2)" in drawn(look(step("t", status="running", epoch=2, crashes=1, title="Judge")))


def test_a_failed_step_shows_its_error_instead_of_its_title():
    shown = drawn(look(step("fix", status="failed", title="Fix", error="no such branch:\nblue")))
    assert "✗ fix" in shown
    assert "no such branch: blue" in shown


def test_a_graph_larger_than_the_screen_is_folded_to_what_moves():
    steps = [step(f"s{number:04}", status="succeeded") for number in range(300)]
    steps[250] = replace(steps[250], status="running")
    steps[260] = replace(steps[260], status="failed", error="broken")
    shown = drawn(look(*steps), height=24)
    assert len(shown.splitlines()) < 24
    assert "s0250" in shown
    assert "broken" in shown
    assert "298 succeeded" in shown


def test_text_of_a_repository_cannot_steer_the_terminal():
    evil = step("a", status="running", title="\x1b[2J\x1b]0;owned\x07 hello")
    shown = drawn(look(evil, notes=()))
    assert "\x1b" not in shown
    assert "\\x1b[2J" in shown


def test_markup_in_a_text_is_shown_and_not_obeyed():
    shown = drawn(look(step("a", status="failed", error="[red]x[/red] [/nonsense]")))
    assert "[red]x[/red] [/nonsense]" in shown


def lines_for(*looks):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    screen = Lines(console)
    for one in looks:
        screen.show(one)
    return console.file.getvalue().splitlines()


def test_a_pipe_gets_one_line_for_each_change_and_none_for_what_stays():
    running = step("scan", status="running", epoch=1, title="Run the analysers", started_at=START)
    done = replace(running, status="succeeded", finished_at=START + timedelta(seconds=4))
    lines = lines_for(look(step("scan")), look(running), look(running), look(done), look(done))
    assert lines[1:] == ["  ● scan starts: Run the analysers", "  ✓ scan succeeded in 4.0 s"]


def test_a_pipe_gets_each_note_once():
    lines = lines_for(look(notes=("No worker is up",)), look(notes=("No worker is up",)))
    assert lines.count("No worker is up") == 1


def test_progress_in_a_pipe_is_thinned_out():
    running = step("scan", status="running", epoch=1, started_at=START)
    looks = [look(running, progress={"scan": f"file {number}"}) for number in range(10)]
    assert [line for line in lines_for(*looks) if "file" in line] == ["    scan: file 0"]


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, "Tree"), (False, "Lines")])
def test_a_terminal_gets_a_tree_and_a_pipe_gets_lines(is_terminal, kind):
    console = Console(file=io.StringIO(), force_terminal=is_terminal)
    with opened_screen(console) as screen:
        assert type(screen).__name__ == kind
        screen.show(look(step("a")))
