"""What is left behind is seen: processes by the home they were started for, helpers by what they work on, clones."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from chaos.evidence import leftovers

from chargehand.workers import sandbox

SLEEP = "import time; print('here', flush=True); time.sleep(60)"


@contextmanager
def process(*argv: str, cwd: Path | None = None, **environment: str) -> Iterator[int]:
    """A process that is there."""
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, cwd=cwd, env={**os.environ, **environment}, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "here\n"
        yield running.pid
        running.kill()


def test_a_process_of_the_machine_that_nobody_expects_is_left_over(tmp_path: Path) -> None:
    with process(sys.executable, "-c", SLEEP, CHARGEHAND_HOME=str(tmp_path)) as pid:
        assert leftovers(tmp_path, expected=[pid], patience_seconds=0) == []
        (told,) = leftovers(tmp_path, expected=[], patience_seconds=0)
        assert told.startswith(f"process {pid} is left over")


def test_a_process_of_another_machine_is_none_of_ours(tmp_path: Path) -> None:
    with process(sys.executable, "-c", SLEEP, CHARGEHAND_HOME=str(tmp_path / "other")):
        assert leftovers(tmp_path, expected=[], patience_seconds=0) == []


def test_a_helper_that_works_on_files_of_a_run_is_left_over(tmp_path: Path) -> None:
    helper = tmp_path / "bin" / "git"
    helper.parent.mkdir()
    helper.symlink_to("/bin/sleep")
    shell = f"echo here; exec {helper} 60"
    with process("/bin/sh", "-c", shell, cwd=tmp_path) as pid:
        found = leftovers(tmp_path, expected=[], patience_seconds=0)
        while not found:
            # The shell has not become the helper yet.
            found = leftovers(tmp_path, expected=[], patience_seconds=0)
        assert found[0].startswith(f"process {pid} is left over")


def test_a_sandbox_of_an_attempt_is_left_over(tmp_path: Path) -> None:
    # A real one: it is started by a path that says nothing, and all its environment is cleared.
    folder = tmp_path / "workspaces" / "run" / "step"
    folder.mkdir(parents=True)
    ended = threading.Event()
    program = (sys.executable, "-c", "import time; time.sleep(600)")
    with ThreadPoolExecutor(1) as pool:
        sandboxed = pool.submit(
            sandbox.run, program, workspace=folder, writable=False, timeout_seconds=600, cancelled=ended.is_set
        )
        try:
            found: list[str] = []
            while not found and not sandboxed.done():
                found = leftovers(tmp_path, expected=[], patience_seconds=0)
        finally:
            ended.set()
        result = sandboxed.result()
        # Once, beside many others, it had ended by itself; what it said then nobody knows.
        assert result.killed == "cancelled", result
    assert found[0].startswith("process")
    assert leftovers(tmp_path, expected=[], patience_seconds=30) == []


def test_a_clone_of_an_attempt_is_left_over(tmp_path: Path) -> None:
    (tmp_path / "workspaces" / "run" / "step" / "1").mkdir(parents=True)
    assert leftovers(tmp_path, expected=[], patience_seconds=0) == ["clone run/step/1 is left over"]
