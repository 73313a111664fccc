"""Composes `findings.sarif` (SARIF 2.1.0), for code-scanning pages and editors."""

import re
from typing import Any
from urllib.parse import quote

from chargehand.workers.findings import Finding, Verdict
from chargehand.workers.report.contents import UNDETECTABLE, ReportInput

SCHEMA_URI = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note"}
# What code-scanning pages sort by, on the scale of CVSS.
SECURITY_SEVERITY = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "2.5"}
SEVERITIES = ("critical", "high", "medium", "low")

_ESCAPED_BYTE = re.compile(r"%5Cx([89a-f][0-9a-f])")


def compose_sarif(report: ReportInput) -> dict[str, Any]:
    """The findings as one SARIF run, every value already plain JSON.

    A dismissal is a suppression with its justification, a `# noqa` one of kind `inSource`; a confirmed finding stays
    open whatever a comment says, because its suppression is marked as rejected.
    """
    rule_ids = sorted({finding.category for finding in report.findings})
    index = {rule_id: position for position, rule_id in enumerate(rule_ids)}
    run: dict[str, Any] = {
        "tool": {"driver": _driver(report, rule_ids)},
        "invocations": [_invocation(report)],
        "versionControlProvenance": [_provenance(report)],
        "originalUriBaseIds": {"SRCROOT": {"description": {"text": "The root of the audited repository."}}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, report.verdict_of(finding), index) for finding in report.findings],
        "properties": {
            "goal": report.goal,
            "notCovered": [*UNDETECTABLE, *report.not_covered],
            "gaps": list(report.gaps),
        },
    }
    if report.facts.run_id:
        run["automationDetails"] = {"id": f"chargehand/{report.facts.run_id}"}
    return {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}


def artifact_uri(path: str) -> str:
    """A repository path as a relative URI; a byte shown as `\\xff` becomes that byte again."""
    encoded = quote(path.encode("utf-8", "backslashreplace"), safe="/").lstrip("/")
    return _ESCAPED_BYTE.sub(lambda match: f"%{match[1].upper()}", encoded)


def _driver(report: ReportInput, rule_ids: list[str]) -> dict[str, Any]:
    driver: dict[str, Any] = {"name": "Chargehand", "rules": [_rule(report, rule_id) for rule_id in rule_ids]}
    if report.tool_version:
        driver["version"] = report.tool_version
    return driver


def _rule(report: ReportInput, rule_id: str) -> dict[str, Any]:
    findings = [finding for finding in report.findings if finding.category == rule_id]
    worst = min((finding.severity for finding in findings), key=SEVERITIES.index)
    weaknesses = sorted({finding.cwe for finding in findings if finding.cwe})
    return {
        "id": rule_id,
        "shortDescription": {"text": findings[0].title or rule_id},
        "defaultConfiguration": {"level": LEVELS[worst]},
        "properties": {
            "tags": ["security", *(f"external/cwe/cwe-{cwe:03}" for cwe in weaknesses)],
            "security-severity": SECURITY_SEVERITY[worst],
        },
    }


def _result(finding: Finding, verdict: Verdict | None, index: dict[str, int]) -> dict[str, Any]:
    text = f"{finding.title}. {verdict.reason}" if verdict else f"{finding.title}. Not triaged."
    start = max(1, finding.line)
    properties: dict[str, Any] = {
        "verdict": verdict.verdict if verdict else "not_triaged",
        "severity": finding.severity,
        "rank": finding.rank,
        "tools": [f"{hit.tool} {hit.rule}" for hit in finding.hits],
        "reachableFrom": list(finding.reachable_from),
    }
    if verdict and verdict.advice:
        properties["advice"] = verdict.advice
    result: dict[str, Any] = {
        "ruleId": finding.category,
        "ruleIndex": index[finding.category],
        "level": LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": artifact_uri(finding.path), "uriBaseId": "SRCROOT"},
                    "region": {"startLine": start, "endLine": max(start, finding.end_line)},
                }
            }
        ],
        "partialFingerprints": {"chargehandFindingId/v1": finding.finding_id},
        "properties": properties,
    }
    if suppressions := _suppressions(finding, verdict):
        result["suppressions"] = suppressions
    return result


def _suppressions(finding: Finding, verdict: Verdict | None) -> list[dict[str, Any]]:
    suppressions: list[dict[str, Any]] = []
    if verdict and verdict.verdict == "dismissed":
        suppressions.append({"kind": "external", "status": "accepted", "justification": verdict.reason})
    if finding.suppressed_by:
        status = {"dismissed": "accepted", "confirmed": "rejected"}.get(
            verdict.verdict if verdict else "", "underReview"
        )
        suppressions.append({"kind": "inSource", "status": status, "justification": finding.suppressed_by})
    return suppressions


def _invocation(report: ReportInput) -> dict[str, Any]:
    gaps = [{"level": "error", "message": {"text": gap}} for gap in report.gaps]
    invocation: dict[str, Any] = {"executionSuccessful": not gaps}
    if gaps:
        invocation["toolExecutionNotifications"] = gaps
    return invocation


def _provenance(report: ReportInput) -> dict[str, Any]:
    # The format demands a URI. A local path would tell everybody who reads the file where somebody's home is.
    uri = report.repository_uri or f"urn:x-chargehand:repository:{quote(report.repository, safe='')}"
    provenance: dict[str, Any] = {"repositoryUri": uri}
    if report.commit:
        provenance["revisionId"] = report.commit
    return provenance
