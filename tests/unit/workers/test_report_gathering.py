"""What steps left behind becomes one report, and what is missing becomes a line in it."""

import pytest
from pydantic import BaseModel, JsonValue

from chargehand.workers.report.contents import ReportInput, RunFacts
from chargehand.workers.report.gathering import (
    AnswersResult,
    FixResult,
    InventoryResult,
    ScanResult,
    VerifyResult,
    gather_report,
)
from chargehand.workers.scripts.answers import CheckedAnswers
from chargehand.workers.scripts.inventory import Inventory
from chargehand.workers.scripts.scan import ScanReport
from chargehand.workers.scripts.verify import FixReport, VerifyReport

FINDING: dict[str, JsonValue] = {
    "finding_id": "f1",
    "category": "sql-injection",
    "title": "SQL built from strings",
    "severity": "high",
    "cwe": 89,
    "path": "store.py",
    "line": 38,
    "end_line": 38,
    "snippet": "query",
    "hits": [{"tool": "ruff", "rule": "S608", "message": "m", "confidence": "high"}],
}
FIX: dict[str, JsonValue] = {
    "rule": "F632",
    "path": "billing.py",
    "description": "Use ==",
    "commit": "a1",
    "status": "applied",
}


def gather(results: dict[str, JsonValue], *missing: str) -> ReportInput:
    return gather_report(goal="Audit this", commit="4f1d", results=results.get, steps=(*results, *missing))


def test_results_of_all_steps_meet_in_one_report() -> None:
    report = gather(
        {
            "inventory": {"files": 2, "lines": 9, "languages": {"Markdown": 1, "Python": 8}},
            "scan": {"findings": [FINDING]},
            "secrets": {"findings": [FINDING | {"finding_id": "f2"}]},
            "triage-1": {"verdicts": [{"finding_id": "f1", "verdict": "confirmed", "reason": "Because."}]},
            "triage-secrets": {"verdicts": [{"finding_id": "f2", "verdict": "dismissed", "reason": "A test."}]},
            "report": {"headline": "Desk", "verdict_lines": ["1", "2", "3"], "notes": "n"},
        }
    )
    assert [finding.finding_id for finding in report.findings] == ["f1", "f2"]
    assert [verdict.verdict for verdict in report.verdicts] == ["confirmed", "dismissed"]
    assert report.inventory is not None
    assert report.inventory.languages == (("Python", 8), ("Markdown", 1))
    assert (report.headline, report.gaps) == ("Desk", ())
    assert report.facts == RunFacts()


def test_finding_of_two_scans_keeps_what_both_said() -> None:
    by_secrets = FINDING | {"hits": [{"tool": "detect-secrets", "rule": "Hex", "message": "m", "confidence": "high"}]}
    (finding,) = gather(
        {
            "scan": {"findings": [FINDING | {"reachable_from": ["GET /"], "rank": 2.0}]},
            "secrets": {"findings": [by_secrets]},
        }
    ).findings
    assert finding.tools == ("detect-secrets", "ruff")
    assert (finding.reachable_from, finding.rank) == (("GET /",), 2.0)


def test_planned_step_without_a_result_is_a_gap_and_an_unplanned_one_is_not() -> None:
    report = gather({"scan": {"findings": [FINDING]}}, "triage-1")
    assert report.gaps == ("Step `triage-1` gave no result: the findings it was given are not triaged.",)
    assert report.verdict_of(report.findings[0]) is None


def test_unreadable_result_is_a_gap_that_names_the_field() -> None:
    report = gather({"scan": {"findings": [{"finding_id": 3}]}, "triage-1": "nonsense"})
    assert report.findings == ()
    assert "Step `scan` gave a result that cannot be read (findings.0." in report.gaps[0]
    assert "Step `triage-1` gave a result that cannot be read (the whole: " in report.gaps[1]


def test_verdict_about_an_unknown_finding_is_left_out_and_said() -> None:
    report = gather({"triage-1": {"verdicts": [{"finding_id": "f9", "verdict": "confirmed", "reason": "r"}]}})
    assert report.verdicts == ()
    assert report.gaps == ("Verdicts on findings that no scan reported were left out: 1.",)


def test_fix_that_no_test_run_followed_is_not_proven() -> None:
    (fix,) = gather({"fix": {"fixes": [FIX]}}).fixes
    assert fix.status == "not_proven"
    assert fix.evidence == "No tests were run after it."


def test_fix_report_after_the_tests_replaces_what_was_applied() -> None:
    kept = FIX | {"status": "kept", "evidence": "t turned green"}
    (fix,) = gather({"fix": {"fixes": [FIX]}, "tests-after": {"fixes": [kept]}}).fixes
    assert fix.status == "kept"


def test_what_two_scans_left_out_is_said_once_and_blind_spots_have_their_own_list() -> None:
    left_out: JsonValue = [
        "folder vendor/ (vendored or generated)",
        "open redirects (CWE-601): needs data-flow analysis",
    ]
    report = gather(
        {
            "inventory": {"languages": {"Python": 1}, "submodules": ["lib/x"]},
            "scan": {"findings": [], "not_covered": left_out},
            "secrets": {"findings": [], "not_covered": left_out},
        }
    )
    assert report.not_covered == (
        "Submodule lib/x: its files are in another repository",
        "folder vendor/ (vendored or generated)",
    )


def test_research_without_an_answer_is_a_gap() -> None:
    report = gather({"check-answers": {"answers": [], "unreadable": {"research-2": "no result"}}})
    assert report.gaps == ("Step `research-2` answered no question (no result).",)


def test_verification_becomes_facts_of_the_patch() -> None:
    verified: dict[str, JsonValue] = {
        "patch_artifact": "ab" * 32,
        "patch_applies": True,
        "patch_reproduces": True,
        "patch_bytes": 120,
        "files_changed": ["billing.py"],
    }
    patch = gather({"verify": verified}).patch
    assert patch is not None
    assert (patch.sha256, patch.applies, patch.files_changed, patch.is_empty) == ("ab" * 32, True, 1, False)
    empty = gather({"verify": verified | {"patch_bytes": 0}}).patch
    assert empty is not None
    assert empty.is_empty


def test_task_for_a_person_that_two_steps_pass_on_is_said_once() -> None:
    task: JsonValue = {"subject": "t fails", "evidence": "E"}
    report = gather({"fix": {"fixes": [FIX], "human_tasks": [task]}, "tests-after": {"human_tasks": [task]}})
    assert len(report.human_tasks) == 1


def test_repository_without_python_is_said_to_be_uncovered() -> None:
    report = gather({"inventory": {"languages": {"Go": 10, "YAML": 2}}})
    assert report.not_covered == (
        "Code in Go: bandit and ruff read Python only; it was searched for secrets",
        "There is no Python here: bandit and ruff had nothing to read",
    )


@pytest.mark.parametrize(
    ("read", "written"),
    [
        (InventoryResult, Inventory),
        (ScanResult, ScanReport),
        (AnswersResult, CheckedAnswers),
        (FixResult, FixReport),
        (VerifyResult, VerifyReport),
    ],
)
def test_every_field_that_is_read_is_one_that_the_script_writes(
    read: type[BaseModel], written: type[BaseModel]
) -> None:
    assert read.model_fields.keys() <= written.model_fields.keys()


def test_symbolic_links_are_left_out_and_said() -> None:
    report = gather({"inventory": {"files": 4, "languages": {"Python": 8}, "links": 3}})
    assert report.not_covered == ("3 symbolic links: none was followed",)


@pytest.mark.parametrize(("planned", "analysed"), [((), False), (("scan",), True), (("secrets",), True)])
def test_run_without_an_analyser_is_no_audit(planned: tuple[str, ...], analysed: bool) -> None:
    assert gather({"inventory": {"files": 4}}, *planned).analysed is analysed
