"""Reports of several analysers become one list in which each fault is named once."""

import hashlib
from collections.abc import Sequence

import pytest

from chargehand.workers.findings import Finding
from chargehand.workers.scanners.merge import finding_id, merge
from chargehand.workers.scanners.reachability import trace
from chargehand.workers.scanners.reports import RawHit, ToolReport
from chargehand.workers.scanners.structure import structure_of

SOURCE = {
    "app.py": [
        "import sqlite3",
        "def find(db, name):",
        "    return db.execute(f'SELECT * FROM t WHERE n = {name}')",
        "def listed(db, column):",
        "    return db.execute(f'SELECT {column} FROM t')  # noqa: S608",
        "KEY = 'abcdef0123456789'",
    ]
}


def hit(tool: str, rule: str, line: int, *, path: str = "app.py", end_line: int = 0, secret: str = "") -> RawHit:
    digest = hashlib.sha1(secret.encode(), usedforsecurity=False).hexdigest() if secret else ""
    return RawHit(
        tool=tool, rule=rule, path=path, line=line, end_line=end_line or line, message="m", secret_sha1=digest
    )


def merged(*hits: RawHit, source: dict[str, list[str]] | None = None) -> tuple[Finding, ...]:
    by_tool: dict[str, list[RawHit]] = {}
    for one in hits:
        by_tool.setdefault(one.tool, []).append(one)
    reports = [ToolReport(tool=tool, version="1", hits=tuple(found)) for tool, found in by_tool.items()]
    text = source or SOURCE
    lines: dict[str, Sequence[str]] = dict(text)
    return merge(reports, lines=lambda path: lines.get(path, []))


def test_two_analysers_at_one_place_are_one_finding_that_ranks_higher() -> None:
    (both,) = merged(hit("bandit", "B608", 3), hit("ruff", "S608", 3))
    (alone,) = merged(hit("ruff", "S608", 3))
    assert (both.category, both.cwe, both.tools) == ("sql-injection", 89, ("bandit", "ruff"))
    assert both.rank > alone.rank
    assert both.finding_id == alone.finding_id


def test_overlapping_lines_are_one_place_and_neighbouring_lines_two() -> None:
    assert len(merged(hit("bandit", "B608", 2, end_line=4), hit("ruff", "S608", 3))) == 1
    assert len(merged(hit("bandit", "B608", 2, end_line=2), hit("ruff", "S608", 3))) == 2


def test_different_faults_on_one_line_stay_apart() -> None:
    found = merged(hit("bandit", "B301", 3), hit("bandit", "B506", 3))
    assert {finding.category for finding in found} == {"unsafe-deserialisation", "unsafe-yaml"}


@pytest.mark.parametrize(
    ("rule", "category", "cwe"),
    [
        ("B602", "command-injection", 78), ("S301", "unsafe-deserialisation", 502), ("B506", "unsafe-yaml", 502),
        ("S501", "tls-verification-off", 295), ("B324", "weak-hash", 327), ("S311", "weak-random", 330),
        ("B202", "archive-extraction", 22), ("S105", "hard-coded-secret", 798), ("B201", "debug-mode", 489),
        ("S999", "other", None),
    ],
)  # fmt: skip
def test_each_rule_has_a_shared_category(rule: str, category: str, cwe: int | None) -> None:
    (finding,) = merged(hit("bandit" if rule[0] == "B" else "ruff", rule, 3))
    assert (finding.category, finding.cwe) == (category, cwe)


def test_a_comment_that_silences_the_rule_or_its_twin_is_kept_with_the_finding() -> None:
    (finding,) = merged(hit("bandit", "B608", 5))
    assert finding.suppressed_by == "# noqa: S608"


@pytest.mark.parametrize(
    ("comment", "silenced"),
    [
        ("# noqa", True), ("# noqa: E501", False), ("# nosec", True), ("# nosec B608", True), ("# nosec: B101", False),
        ("# NOQA:S608,E501", True), ("# nosecret", False), ("# noqa: S6", True), ("", False),
    ],
)  # fmt: skip
def test_only_a_comment_about_this_rule_counts_as_suppression(comment: str, silenced: bool) -> None:
    (finding,) = merged(hit("ruff", "S608", 1), source={"app.py": [f"db.execute(q)  {comment}"]})
    assert (finding.suppressed_by is not None) == silenced


def test_a_file_wide_comment_counts_as_suppression() -> None:
    (finding,) = merged(hit("ruff", "S608", 2), source={"app.py": ["# ruff: noqa: S608", "db.execute(q)"]})
    assert finding.suppressed_by == "# ruff: noqa: S608"


def test_asserts_in_tests_and_import_notices_are_left_out() -> None:
    assert merged(hit("bandit", "B101", 1, path="tests/test_a.py"), hit("bandit", "B403", 1)) == ()
    (finding,) = merged(hit("bandit", "B101", 1))
    assert finding.category == "assert"


def test_findings_in_tests_rank_below_those_in_code_and_are_low() -> None:
    code, tests = merged(hit("ruff", "S602", 1, path="tests/test_a.py"), hit("ruff", "S324", 1))
    assert (code.path, tests.path, tests.severity) == ("app.py", "tests/test_a.py", "low")


def test_a_secret_is_not_shown_in_full() -> None:
    (known,) = merged(hit("detect-secrets", "Hex", 6, secret="abcdef0123456789"))
    (guessed,) = merged(hit("ruff", "S105", 6))
    for finding in (known, guessed):
        assert "0123456789" not in finding.snippet
        assert "abc…" in finding.snippet


def test_ids_stay_when_lines_move_and_differ_for_equal_lines() -> None:
    line = "    subprocess.run(x, shell=True)"
    first, second = merged(hit("ruff", "S602", 1), hit("ruff", "S602", 3), source={"app.py": [line, "", line]})
    (moved,) = merged(hit("ruff", "S602", 5), source={"app.py": ["", "", "", "", line]})
    assert moved.finding_id == finding_id("app.py", "command-injection", line)
    assert {first.finding_id, second.finding_id} >= {moved.finding_id}
    assert first.finding_id != second.finding_id


def test_a_line_that_a_route_leads_to_ranks_higher() -> None:
    text = "@app.get('/x')\ndef view():\n    run()\ndef run():\n    bad()\ndef unused():\n    bad()\n"
    reports = [ToolReport(tool="ruff", version="1", hits=(hit("ruff", "S602", 5), hit("ruff", "S602", 7)))]
    first, second = merge(reports, lines=lambda _: text.split("\n"), reachability=trace([structure_of(text, "app.py")]))
    assert (first.line, first.reachable_from) == (5, ("GET /x",))
    assert (second.line, second.reachable_from) == (7, ())


def test_a_snippet_has_at_most_twelve_lines_and_no_endless_one() -> None:
    source = {"app.py": ["x" * 5000] * 60}
    (finding,) = merged(hit("ruff", "S602", 20, end_line=50), source=source)
    lines = finding.snippet.split("\n")
    assert len(lines) == 12
    assert max(map(len, lines)) < 310


@pytest.mark.timeout(10)
def test_hostile_lines_do_not_stall_the_merge() -> None:
    for line in ('k = "' + "\\" * 200_000, "# noqa: " + "A" * 200_000, "#" * 200_000, 'k = "' + "a'" * 100_000):
        found = merged(hit("ruff", "S105", 1), hit("ruff", "S602", 1), source={"app.py": [line]})
        assert len(found) == 2
