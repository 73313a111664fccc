"""A pytest plugin that writes one JSON line a test; it runs inside the sandbox and imports nothing of Chargehand.

The code under test runs in the same process and could write lines of its own: outcomes are the repository's word.
"""

import json
import os
import sys
from typing import Any

import pytest

_PRIORITY = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}
# A long traceback helps nobody who reads twenty of them.
_MAX_MESSAGE = 1500
_MAX_FILES = 20_000


class Outcomes:
    """Keeps the worst phase of each test and writes it when the test is over."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._worst: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        outcome = report.outcome
        if report.when != "call" and outcome == "failed":
            outcome = "error"
        if hasattr(report, "wasxfail"):
            # An expected failure is no failure, and a strict surprise is reported as failed by pytest itself.
            outcome = "skipped" if outcome == "skipped" else outcome
        message = report.longreprtext[-_MAX_MESSAGE:] if outcome in ("failed", "error") else ""
        old = self._worst.get(report.nodeid, ("passed", ""))
        if _PRIORITY[outcome] >= _PRIORITY[old[0]]:
            self._worst[report.nodeid] = (outcome, message or old[1])
        if report.when == "teardown":
            self._write(report.nodeid, *self._worst.pop(report.nodeid))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._write(report.nodeid or "collection", "error", report.longreprtext[-_MAX_MESSAGE:])

    def pytest_sessionfinish(self) -> None:
        """Note which files of the repository were imported, however the tests went."""
        here = os.getcwd() + os.sep
        files = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
        mine = sorted(file.removeprefix(here) for file in files if file.startswith(here))
        self._file.write(json.dumps({"files": mine[:_MAX_FILES]}) + "\n")

    def pytest_unconfigure(self) -> None:
        self._file.close()

    def _write(self, node_id: str, outcome: str, message: str) -> None:
        self._file.write(json.dumps({"test": node_id, "outcome": outcome, "message": message}) + "\n")
        self._file.flush()


def pytest_configure(config: pytest.Config) -> None:
    """Register the writer if Chargehand named a file."""
    path = os.environ.get("CHARGEHAND_OUTCOMES")
    if path:
        config.pluginmanager.register(Outcomes(path), "chargehand-outcomes")
