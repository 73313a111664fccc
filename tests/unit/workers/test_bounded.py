"""Children end with the step they work for."""

import threading
import time
from pathlib import Path

from chargehand.workers.bounded import CANCELLED, run_bounded


def test_a_child_is_killed_once_its_step_is_not_ours_any_more(tmp_path: Path) -> None:
    lost = threading.Event()
    threading.Timer(0.3, lost.set).start()
    token = CANCELLED.set(lost.is_set)
    started = time.monotonic()

    ended = run_bounded(["/bin/sleep", "60"], environment={}, folder=tmp_path, timeout_seconds=60)

    CANCELLED.reset(token)
    assert ended.killed == "cancelled"
    assert time.monotonic() - started < 45


def test_a_child_of_a_step_that_is_ours_ends_by_itself(tmp_path: Path) -> None:
    ended = run_bounded(["/bin/sh", "-c", "echo done"], environment={}, folder=tmp_path, timeout_seconds=60)
    assert (ended.killed, ended.exit_code, ended.stdout.strip()) == ("", 0, b"done")
