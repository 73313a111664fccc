"""`chargehand demo --kill` as a user types it: a report, a kill in the middle, nothing paid for twice, nothing left."""

import json
import os
import subprocess
import sys

import pytest

from chargehand.orchestrator.laptop import running_laptop

TIMEOUT_SECONDS = 400


@pytest.mark.system
@pytest.mark.timeout(TIMEOUT_SECONDS + 20)
def test_a_worker_killed_in_the_middle_of_a_triage_costs_no_recorded_answer(laptop_home, tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHARGEHAND_", "ANTHROPIC_"))}
    done = subprocess.run(
        [sys.executable, "-m", "chargehand.orchestrator.cli", "demo", "--kill", "--json", "--out", str(tmp_path)],
        env={**kept, "CHARGEHAND_HOME": str(laptop_home)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    assert told["outcome"]["status"] == "succeeded"
    assert told["killed"]["step"].startswith("triage-")
    resumed = {one["step"]: one for one in told["resumptions"]}
    victim = resumed[told["killed"]["step"]]
    assert victim["answers_before"] >= 1
    assert victim["resumed_at_turn"] == victim["answers_before"] + 1
    assert all(one["recorded_answers_asked_again"] == 0 for one in resumed.values())
    assert told["unjudged"] == []
    # Nobody is there in a demo: the question does not keep the report waiting, and is named.
    assert told["unanswered"] == ["fix"]
    assert "Open question: " in (tmp_path / "report.md").read_text()
    assert all(run["objections"] == [] for run in told["audit"]["runs"])
    assert told["audit"]["anchors"] == []
    for name in ("report.md", "findings.sarif", "changes.patch"):
        assert (tmp_path / name).stat().st_size > 0
    assert running_laptop(laptop_home) is None
