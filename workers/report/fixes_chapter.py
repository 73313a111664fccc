"""The chapter about fixes: what was kept, what was reverted and why, as the tests tell."""

from collections import Counter
from collections.abc import Iterator

from chargehand.workers.findings import FixAttempt, TestRun
from chargehand.workers.report.contents import ReportInput
from chargehand.workers.report.escaping import code, prose, remark
from chargehand.workers.report.phrases import some_code

LIST_ITEMS = 30
CLOSED_IN = (
    "They ran without a network, and could only write to a copy of the repository; a test that needs more fails."
)


def fixes(report: ReportInput) -> Iterator[str]:
    """Tests before and after, then every fix by its outcome."""
    yield "## Fixes"
    yield ""
    yield _tests(report)
    if not report.fixes:
        yield ""
        yield "No automatic fix was applied."
        return
    titles = {
        "kept": "Kept",
        "reverted": "Reverted, with the evidence",
        "not_proven": "Applied, but not proven",
        "applied": "Applied, outcome unknown",
    }
    for status, title in titles.items():
        attempts = [fix for fix in report.fixes if fix.status == status]
        if not attempts:
            continue
        yield ""
        yield f"**{title}**"
        yield ""
        yield from (_fix(attempt) for attempt in attempts[:LIST_ITEMS])
        if len(attempts) > LIST_ITEMS:
            yield f"- … and {len(attempts) - LIST_ITEMS} more"


def _fix(attempt: FixAttempt) -> str:
    commit = f" (commit {code(attempt.commit[:10])})" if attempt.commit and attempt.status != "reverted" else ""
    description = remark(attempt.description, limit=200).rstrip(".")
    evidence = f" {remark(attempt.evidence, limit=600)}" if attempt.evidence else ""
    return f"- {code(attempt.rule)} in {code(attempt.path)}{commit}: {description}.{evidence}"


def _tests(report: ReportInput) -> str:
    before, after, delta = report.tests_before, report.tests_after, report.delta
    if before is None:
        return "The repository's own tests were not run, so no fix can be called proven."
    if not before.runnable:
        return (
            f"**Tests unrunnable** ({remark(before.reason) or 'no reason was given'}), so no fix can be called proven."
        )
    parts = [f"Tests with {code(' '.join(before.command))}: {_outcomes(before)} before"]
    if after is not None:
        parts.append(
            f"{_outcomes(after)} after" if after.runnable else f"unrunnable after the fixes ({remark(after.reason)})"
        )
    lines = [" → ".join(parts) + "."]
    if delta is not None:
        named = (
            ("turned green", delta.turned_green),
            ("**broke**", delta.broke),
            ("still failing", delta.still_failing),
            ("**no longer there**", delta.vanished),
        )
        lines += [f"- {name}: {some_code(tests, 10)}" for name, tests in named if tests]
        if delta.broke or delta.still_failing:
            lines += ["", CLOSED_IN]
    if len(lines) > 1:
        lines.insert(1, "")
    return "\n".join(lines)


def _outcomes(run: TestRun) -> str:
    counts = Counter(run.outcomes.values())
    order = ("passed", "failed", "error", "skipped")
    known = [f"{counts[outcome]} {outcome}" for outcome in order if counts[outcome]]
    other = [f"{number} {prose(outcome)}" for outcome, number in sorted(counts.items()) if outcome not in order]
    return ", ".join(known + other) or "no test"
