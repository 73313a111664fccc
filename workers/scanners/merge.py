"""Many analysers' reports become one ranked list: same place and same category is one finding. Pure."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from chargehand.memory.pathnames import shown
from chargehand.workers.findings import Finding, Severity, ToolHit
from chargehand.workers.scanners.categories import ASSERT, SECRET, Category, category_of, is_import_notice
from chargehand.workers.scanners.reachability import Reachability
from chargehand.workers.scanners.reports import RawHit, ToolReport
from chargehand.workers.scanners.survey import is_test_path

# Lines of code shown with a finding; a prompt holds dozens of them.
MAX_SNIPPET_LINES = 12
_CONTEXT_LINES = 3
_MAX_LINE_LENGTH = 300
_MAX_LABELS = 8

SEVERITY_WEIGHT: Mapping[Severity, float] = {"critical": 8.0, "high": 5.0, "medium": 3.0, "low": 1.0}
# A line that a request leads to is worse than one that only a program's start leads to.
FROM_ROUTE, FROM_PROGRAM, FROM_NOWHERE, IN_TESTS = 1.5, 1.2, 1.0, 0.2
# Each further analyser that agrees.
AGREEMENT = 0.25

_NOQA = re.compile(r"#\s*noqa(?!\w)(?::\s*(?P<codes>[A-Z]+\d+(?:[\s,]+[A-Z]+\d+)*))?", re.IGNORECASE)
_FILE_NOQA = re.compile(
    r"^\s*#\s*(?:ruff|flake8)\s*:\s*noqa(?!\w)(?::\s*(?P<codes>[A-Z]+\d+(?:[\s,]+[A-Z]+\d+)*))?", re.IGNORECASE
)
_NOSEC = re.compile(r"#\s*nosec(?!\w)(?:\s*:?\s*(?P<codes>B\d+(?:[\s,]+B\d+)*))?", re.IGNORECASE)
_STRING = re.compile(r"(?P<quote>[\"'`])(?P<text>(?:\\.|(?!(?P=quote))[^\\])*)(?P=quote)")
_TOKEN = re.compile(r"[^\s\"'`=:,;(){}\[\]<>]+")

Lines = Callable[[str], Sequence[str]]
"""Gives the lines of a file by its path."""


def merge(
    reports: Sequence[ToolReport], *, lines: Lines, reachability: Reachability | None = None
) -> tuple[Finding, ...]:
    """Give the findings, worst first. The order and the ids do not depend on the order of the reports."""
    groups: dict[tuple[str, str], list[RawHit]] = defaultdict(list)
    for report in reports:
        for hit in report.hits:
            category = category_of(hit.tool, hit.rule)
            if is_import_notice(hit.rule) or (category == ASSERT and is_test_path(hit.path)):
                continue
            groups[hit.path, category.slug].append(hit)
    findings: list[Finding] = []
    for (path, _), hits in sorted(groups.items()):
        text = lines(path)
        seen: Counter[str] = Counter()
        findings += [_finding(path, cluster, text, seen, reachability) for cluster in _overlapping(hits)]
    return tuple(sorted(findings, key=lambda finding: (-finding.rank, finding.path, finding.line, finding.category)))


def finding_id(path: str, category: str, line_text: str, ordinal: int = 0) -> str:
    """Give an id that survives moving the line: a short hash of path, category and the line's text."""
    parts = [path, category, line_text.strip(), *([str(ordinal)] if ordinal else [])]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _overlapping(hits: Sequence[RawHit]) -> list[list[RawHit]]:
    """Cut the hits of one file and category where no hit reaches over."""
    clusters: list[list[RawHit]] = []
    end = 0
    for hit in sorted(hits, key=lambda hit: (hit.line, hit.end_line, hit.tool, hit.rule)):
        if clusters and hit.line <= end:
            clusters[-1].append(hit)
            end = max(end, hit.end_line)
        else:
            clusters.append([hit])
            end = hit.end_line
    return clusters


def _finding(
    path: str, hits: Sequence[RawHit], text: Sequence[str], seen: Counter[str], reachability: Reachability | None
) -> Finding:
    category = category_of(hits[0].tool, hits[0].rule)
    line = min(hit.line for hit in hits)
    end_line = max(hit.end_line for hit in hits)
    line_text = text[line - 1] if 0 < line <= len(text) else ""
    ordinal = seen[line_text.strip()]
    seen[line_text.strip()] += 1
    hide = _hide_secrets(hits) if category == SECRET else None
    labels = reachability.of(path, line) if reachability is not None else ()
    tools = {hit.tool for hit in hits}
    return Finding(
        finding_id=finding_id(path, category.slug, line_text, ordinal),
        category=category.slug,
        title=category.title,
        severity=_severity(category, path),
        cwe=category.cwe,
        path=shown(path),
        line=line,
        end_line=end_line,
        snippet=_snippet(text, line, end_line, hide),
        hits=tuple(
            ToolHit(
                tool=hit.tool,
                rule=hit.rule,
                message=hide(hit.message) if hide else hit.message,
                confidence=hit.confidence,
            )
            for hit in _first_of_each_rule(hits)
        ),
        suppressed_by=_suppression(hits, text, line, end_line),
        reachable_from=labels[:_MAX_LABELS],
        rank=round(
            SEVERITY_WEIGHT[category.severity] * _exposure(path, labels) * (1 + AGREEMENT * (len(tools) - 1)), 3
        ),
    )


def _severity(category: Category, path: str) -> Severity:
    return "low" if is_test_path(path) else category.severity


def _exposure(path: str, labels: Sequence[str]) -> float:
    if is_test_path(path):
        return IN_TESTS
    if any(not label.startswith("python ") for label in labels):
        return FROM_ROUTE
    return FROM_PROGRAM if labels else FROM_NOWHERE


def _first_of_each_rule(hits: Sequence[RawHit]) -> list[RawHit]:
    return list({(hit.tool, hit.rule): hit for hit in reversed(hits)}.values())[::-1]


def _snippet(text: Sequence[str], line: int, end_line: int, hide: Callable[[str], str] | None) -> str:
    first = max(1, line - _CONTEXT_LINES)
    last = min(len(text), end_line + _CONTEXT_LINES, first + MAX_SNIPPET_LINES - 1)
    rows = []
    for number in range(first, last + 1):
        row = text[number - 1]
        if hide is not None and line <= number <= end_line:
            row = hide(row)
        rows.append(row if len(row) <= _MAX_LINE_LENGTH else row[:_MAX_LINE_LENGTH] + "…")
    return "\n".join(rows)


def _hide_secrets(hits: Sequence[RawHit]) -> Callable[[str], str]:
    """Make a function that shortens the secrets of these hits: reports and prompts are kept, and read by others."""
    digests = {hit.secret_sha1 for hit in hits if hit.secret_sha1}

    def hide(row: str) -> str:
        if len(row) > _MAX_LINE_LENGTH:
            return f"(a line of {len(row)} characters with a secret, not shown)"
        for token in {*(match["text"] for match in _STRING.finditer(row)), *_TOKEN.findall(row)}:
            if hashlib.sha1(token.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest() in digests:
                row = row.replace(token, _shortened(token))
        if digests:
            return row
        return _STRING.sub(lambda match: f"{match['quote']}{_shortened(match['text'])}{match['quote']}", row)

    return hide


def _shortened(secret: str) -> str:
    return f"{secret[:3]}…" if len(secret) > 5 else "…"


def _suppression(hits: Sequence[RawHit], text: Sequence[str], line: int, end_line: int) -> str | None:
    """The comment (or argument) that asks an analyser to be silent about one of these rules here."""
    for hit in hits:
        if hit.silenced_by:
            return hit.silenced_by
    rules = {hit.rule.upper() for hit in hits}
    # Twins count: whoever silences S608 means bandit's B608 too.
    rules |= {("S" if rule[0] == "B" else "B") + rule[1:] for rule in rules if re.match(r"[BS]\d{3}\Z", rule)}
    for row in text[max(0, line - 1) : end_line]:
        for pattern in (_NOQA, _NOSEC):
            match = pattern.search(row)
            if match and _covers(match["codes"], rules):
                return match.group().strip()
    for row in text:
        match = _FILE_NOQA.match(row)
        if match and _covers(match["codes"], rules):
            return match.group().strip()
    return None


def _covers(codes: str | None, rules: set[str]) -> bool:
    """No code silences everything; a code silences itself and what it is a prefix of."""
    if codes is None:
        return True
    return any(rule.startswith(code.upper()) for code in re.split(r"[\s,]+", codes.strip()) for rule in rules)
