"""Sandboxes whose worker died while they were made: they are found by whose they were, and ended."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chargehand.workers import orphans, sandbox
from tests.integration.test_sandbox import processes_with, wait_until, workspace

__all__ = ["workspace"]
KILLS = 40
MOST_SECONDS_TO_KILL = 0.12
WORKER = """
import sys
from pathlib import Path
from chargehand.workers import sandbox
sandbox.available()
print("up", flush=True)
sandbox.run([sys.executable, "-c", "import time; time.sleep(90)  # {name}"], workspace=Path({folder!r}), writable=True,
            timeout_seconds=90)
"""


@contextmanager
def running(workspace: Path, name: str) -> Iterator[None]:
    """A sandbox at work, made by this process or by whom `orphans.mark` names."""
    stop = threading.Event()
    thread = threading.Thread(
        target=sandbox.run,
        args=([sys.executable, "-c", f"import time; time.sleep(90)  # {name}"],),
        kwargs={"workspace": workspace, "writable": True, "timeout_seconds": 90, "cancelled": stop.is_set},
    )
    thread.start()
    try:
        wait_until(lambda: len(processes_with(name)) > 1)
        yield
    finally:
        stop.set()
        thread.join()


def owner_that_has_died() -> str:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = orphans._owner(process.pid)
    process.communicate()
    return owner


def as_of(owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    marked = ["--setenv", orphans.VARIABLE, owner, "--unsetenv", orphans.VARIABLE]
    monkeypatch.setattr(orphans, "mark", lambda: marked)


def test_a_sandbox_of_a_dead_process_is_ended_and_one_of_the_living_goes_on(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(workspace, "chargehand-living"):
        as_of(owner_that_has_died(), monkeypatch)
        with running(workspace, "chargehand-dead"):
            assert orphans.end_orphans() > 0
            wait_until(lambda: not processes_with("chargehand-dead"))
        assert processes_with("chargehand-living")


def test_a_later_process_of_the_same_number_is_not_its_owner(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = orphans._owner(threading.get_native_id())
    as_of(f"{mine}0", monkeypatch)
    with running(workspace, "chargehand-later"):
        assert orphans.end_orphans() > 0
        wait_until(lambda: not processes_with("chargehand-later"))


def test_what_another_container_runs_is_left_alone(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, process = owner_that_has_died().partition("/")
    as_of(f"pid:[1]/{process}", monkeypatch)
    with running(workspace, "chargehand-elsewhere"):
        orphans.end_orphans()
        assert processes_with("chargehand-elsewhere")


def test_the_command_sees_nothing_of_the_mark(workspace: Path) -> None:
    result = sandbox.run(
        [sys.executable, "-c", "import os; print(sorted(os.environ))"],
        workspace=workspace,
        writable=False,
        timeout_seconds=60,
    )
    assert b"PATH" in result.stdout
    assert orphans.VARIABLE.encode() not in result.stdout


@pytest.mark.long
def test_no_sandbox_outlives_a_worker_that_is_killed_while_it_makes_one(workspace: Path) -> None:
    dice, name = random.Random(1), "chargehand-killed"
    for _ in range(KILLS):
        program = WORKER.format(name=name, folder=str(workspace))
        worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert worker.stdout is not None
        worker.stdout.readline()
        # Not a wait for anything: the moment of death is what is drawn.
        time.sleep(dice.uniform(0, MOST_SECONDS_TO_KILL))
        worker.kill()
        worker.wait()
        worker.stdout.close()

    def ended() -> bool:
        orphans.end_orphans()
        return not processes_with(name)

    wait_until(ended)
