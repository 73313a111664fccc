"""The chapters about findings: the table, what was confirmed, dismissed, suppressed or left to a person."""

import re
from collections.abc import Iterable, Iterator

from chargehand.workers.findings import Finding, Verdict
from chargehand.workers.report.contents import ReportInput
from chargehand.workers.report.escaping import code, prose, remark
from chargehand.workers.report.phrases import listing, shortened, some_code

SEVERITIES = ("critical", "high", "medium", "low")

# Rows of the table and chapters of detail; the rest is in the SARIF file, and the report says so.
TABLE_ROWS = 60
DETAILS = 40
LIST_ITEMS = 30
ACTION_CHARACTERS = 90

# As much of a secret as tells its owner which one it is.
SECRET_SHOWN = 4
_QUOTED = re.compile(r"(['\"])([^'\"\n]{4})[^'\"\n]{4,}\1")
_TOKEN = re.compile(r"(?=[A-Za-z+/_-]*\d)[A-Za-z0-9+/_-]{16,}={0,2}")


def findings_table(report: ReportInput) -> Iterator[str]:
    """What is confirmed or undecided, worst first, one row each."""
    yield "## Findings"
    yield ""
    shown = _open(report)
    if not shown and not report.analysed:
        yield "No analyser ran, so this report says nothing about problems in the code."
        return
    if not shown:
        yield "Nothing was confirmed, and nothing waits for a decision. *Not covered* says what that does not mean."
        return
    yield "| # | Severity | What | CWE | Where | Tools | Action |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for position, finding in enumerate(shown[:TABLE_ROWS], start=1):
        cells = (
            str(position),
            finding.severity,
            prose(finding.title, limit=100),
            str(finding.cwe) if finding.cwe else "–",
            where(finding),
            prose(", ".join(finding.tools)),
            _action(finding, report.verdict_of(finding)),
        )
        yield f"| {' | '.join(cells)} |"
    if len(shown) > TABLE_ROWS:
        yield ""
        yield f"… and {len(shown) - TABLE_ROWS} more, of lower rank, in `findings.sarif`."


def _action(finding: Finding, verdict: Verdict | None) -> str:
    if verdict is None:
        return "not triaged: look at it yourself"
    if verdict.verdict == "needs_person":
        return "**decide**, see below"
    first_clause = re.split(r"[;:.] ", verdict.advice, maxsplit=1)[0]
    return remark(first_clause, limit=ACTION_CHARACTERS) or "change by hand, see below"


def confirmed_findings(report: ReportInput) -> Iterator[str]:
    """Each confirmed finding with the reason, the code around and what to change."""
    numbered = [
        (number, finding, verdict)
        for number, finding in enumerate(_open(report), start=1)
        if (verdict := report.verdict_of(finding)) and verdict.verdict == "confirmed"
    ]
    if not numbered:
        return
    yield "## Confirmed"
    for number, finding, verdict in numbered[:DETAILS]:
        yield ""
        yield f"### {number}. {prose(finding.title, limit=100)} in {where(finding)}"
        yield ""
        yield _evidence(finding)
        yield ""
        yield remark(verdict.reason)
        if finding.snippet.strip():
            yield ""
            yield _code_around(finding)
        if verdict.advice:
            yield ""
            yield f"**Change:** {remark(verdict.advice)}"
    if len(numbered) > DETAILS:
        yield ""
        yield f"… and {len(numbered) - DETAILS} more confirmed findings in `findings.sarif`."


def _evidence(finding: Finding) -> str:
    parts: list[str] = [finding.severity]
    if finding.cwe:
        parts.append(f"[CWE-{finding.cwe}](https://cwe.mitre.org/data/definitions/{finding.cwe}.html)")
    rules = sorted({f"{hit.tool} {hit.rule}" for hit in finding.hits})
    parts.append(prose(", ".join(rules)))
    if finding.reachable_from:
        parts.append(f"reachable from {some_code(finding.reachable_from, 3)}")
    parts.append(f"id {code(finding.finding_id)}")
    return " · ".join(parts)


def handed_to_a_person(report: ReportInput) -> Iterator[str]:
    """What no rule and no agent could decide."""
    undecided = ranked(by_verdict(report)["needs_person"])
    if not undecided and not report.human_tasks:
        return
    yield "## Handed to a person"
    for task in report.human_tasks[:LIST_ITEMS]:
        yield ""
        yield f"**{remark(task.subject, limit=200)}**"
        yield ""
        evidence = task.evidence.strip()
        yield listing(evidence, "") if "\n" in evidence else remark(evidence) or "No evidence was kept."
        if task.asked:
            yield ""
            yield f"Open question: {remark(task.asked, limit=600)}"
    for finding in undecided[:LIST_ITEMS]:
        verdict = report.verdict_of(finding)
        yield ""
        yield f"**{prose(finding.title, limit=100)}** in {where(finding)}: {remark(verdict.reason) if verdict else ''}"
        if finding.snippet.strip():
            yield ""
            yield _code_around(finding)
    hidden = max(0, len(report.human_tasks) - LIST_ITEMS) + max(0, len(undecided) - LIST_ITEMS)
    if hidden:
        yield ""
        yield f"… and {hidden} more."


def dismissed_findings(report: ReportInput) -> Iterator[str]:
    """What was looked at and is no defect, with the reason."""
    dismissed = ranked(by_verdict(report)["dismissed"])
    if not dismissed:
        return
    yield "## Dismissed, with the reason"
    yield ""
    for finding in dismissed[:LIST_ITEMS]:
        verdict = report.verdict_of(finding)
        reason = remark(verdict.reason, limit=400) if verdict else ""
        yield f"- {where(finding)} {prose(finding.title, limit=100)}: {reason}"
    if len(dismissed) > LIST_ITEMS:
        yield f"- … and {len(dismissed) - LIST_ITEMS} more, each with its reason, in `findings.sarif`."


def suppressions(report: ReportInput) -> Iterator[str]:
    """Places where a comment silences the analysers, and what was decided there all the same."""
    silenced = [finding for finding in ranked(report.findings) if finding.suppressed_by]
    if not silenced:
        return
    yield "## Suppressed in the code"
    yield ""
    yield "The code asks the analysers to be silent here. These places were looked at all the same."
    yield ""
    for finding in silenced[:LIST_ITEMS]:
        verdict = report.verdict_of(finding)
        outcome = verdict.verdict.replace("_", " ") if verdict else "not triaged"
        yield f"- {where(finding)} {code(finding.suppressed_by or '')} ({prose(finding.title, limit=100)}): {outcome}"
    if len(silenced) > LIST_ITEMS:
        yield f"- … and {len(silenced) - LIST_ITEMS} more"


def _code_around(finding: Finding) -> str:
    """The snippet; a report is passed on more freely than a repository, so that a secret in it is masked."""
    snippet = shortened(finding.snippet)
    if "detect-secrets" in finding.tools or "secret" in finding.category:
        snippet = _QUOTED.sub(r"\1\2…\1", snippet)
        snippet = _TOKEN.sub(lambda match: f"{match[0][:SECRET_SHOWN]}…", snippet)
    return listing(snippet, finding.path)


def _open(report: ReportInput) -> list[Finding]:
    groups = by_verdict(report)
    return ranked([*groups["confirmed"], *groups["needs_person"], *groups["untriaged"]])


def by_verdict(report: ReportInput) -> dict[str, list[Finding]]:
    """Findings by `confirmed`, `dismissed`, `needs_person` and `untriaged`."""
    groups: dict[str, list[Finding]] = {"confirmed": [], "dismissed": [], "needs_person": [], "untriaged": []}
    for finding in report.findings:
        verdict = report.verdict_of(finding)
        groups[verdict.verdict if verdict else "untriaged"].append(finding)
    return groups


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Worst first: by severity, then by rank, then by place."""
    return sorted(
        findings,
        key=lambda finding: (SEVERITIES.index(finding.severity), -finding.rank, finding.path, finding.line),
    )


def where(finding: Finding) -> str:
    """`file:line` as code."""
    return code(f"{finding.path}:{finding.line}")
