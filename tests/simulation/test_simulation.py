"""A slice of `make simulate`: what a supervisor decides, in many small worlds that go wrong in all ways at once."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulation import __main__ as program
from simulation import supervision
from simulation.choices import Choices
from simulation.clock import Clock, Fiber, Killed
from simulation.shrinking import shrink
from simulation.story import MOST_LINES, shortened
from simulation.world import Verdict, simulate

# A few seconds; `make simulate SEEDS=10000` takes the minutes.
SEEDS = range(1, 121)


@pytest.fixture(autouse=True)
def _without_logs() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def _followers_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "follower_status", lambda: "queued")


def decisions(verdict: Verdict) -> int:
    return sum(value > 0 for tape in verdict.tapes.values() for value in tape)


def broken_world() -> Verdict:
    return next(verdict for verdict in map(simulate, SEEDS) if verdict.objection)


def test_every_world_keeps_every_rule_and_every_run_ends() -> None:
    deeds: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    for verdict in map(simulate, SEEDS):
        if verdict.objection:
            short = shrink(verdict)
            pytest.fail(
                "\n".join([f"seed {verdict.seed}: {short.objection}", *shortened(short.story, short.objection)])
            )
        deeds += verdict.deeds
        endings += verdict.statuses
    assert {"cancel", "pause", "resume", "answer", "tell"} <= deeds.keys()
    assert endings.keys() == {"succeeded", "failed", "cancelled"}


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    seed = next(verdict.seed for verdict in map(simulate, SEEDS) if verdict.conditions.temper == "all")
    told = simulate(seed, tells=True).story
    for hash_seed in ("1", "2"):
        other = subprocess.run(
            [sys.executable, "-m", "simulation", "--seed", str(seed)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert tuple(other.stderr.splitlines()[:-1]) == told


def test_the_tapes_of_a_world_are_all_that_decides_it() -> None:
    for seed in SEEDS[:5]:
        first = simulate(seed, tells=True)
        again = simulate(seed, tapes=first.tapes, tells=True)
        assert again.story == first.story


@pytest.mark.usefixtures("_followers_queued")
def test_what_breaks_a_rule_is_told_in_a_short_story_that_its_tapes_tell_again() -> None:
    verdict = broken_world()
    short = shrink(verdict, seconds=20)
    assert short.rule == verdict.rule
    # Zeros are the tamest choices; what is not zero, a person has to understand.
    assert decisions(short) < decisions(verdict) / 4
    story = shortened(short.story, short.objection)
    assert len(story) <= MOST_LINES
    assert short.objection in story[-1] or short.objection in story[-2]
    assert simulate(verdict.seed, tapes=short.tapes, tells=True).story == short.story


@pytest.mark.usefixtures("_followers_queued")
def test_the_program_names_the_seed_that_breaks_a_rule_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = broken_world().seed
    monkeypatch.setattr(
        sys, "argv", ["simulation", "--from", str(seed), "--seeds", "1", "--processes", "1", "--shrink-seconds", "1"]
    )
    assert program.main() == 1
    written = capsys.readouterr()
    assert f"--seed {seed} tells it again" in written.err
    figures = {line["figure"]: line for line in map(json.loads, written.out.splitlines())}
    assert figures["simulation_broken_rules"]["value"] == 1
    assert not figures["simulation_broken_rules"]["ok"]


def test_a_tape_that_has_run_out_gives_the_tamest_choices() -> None:
    choices = Choices(1, {"a": (3, 1, 9)})
    assert [choices.number("a", 5), choices.happens("a", 0.1), choices.number("a", 4)] == [3, True, 3]
    assert (choices.number("a", 5), choices.happens("b", 0.9), choices.between("b", 2.0, 4.0)) == (0, False, 2.0)
    assert choices.drawn == {"a": [3, 1, 3, 0], "b": [0, 0]}


def test_fibers_take_turns_by_the_clock_and_one_that_is_killed_unwinds_where_it_sleeps() -> None:
    clock, told = Clock(), []
    began = clock.now

    def work(name: str, seconds: float) -> None:
        try:
            fibers[name].sleep(seconds)
            told.append((name, clock.now - began))
        except Killed:
            told.append((name, "killed"))
            raise

    fibers = {
        name: Fiber(clock, lambda name=name, seconds=seconds: work(name, seconds), may_go_on=lambda _: True)  # type: ignore[misc]
        for name, seconds in (("slow", 3.0), ("quick", 1.0), ("dead", 5.0))
    }
    for fiber in fibers.values():
        clock.after(0.0, fiber.resume)
    clock.after(2.0, fibers["dead"].kill)
    clock.run(began + 10.0)

    assert told == [("quick", 1.0), ("dead", "killed"), ("slow", 3.0)]
    assert all(fiber.is_over for fiber in fibers.values())
