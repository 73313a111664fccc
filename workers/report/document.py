"""Composes `report.md`: short at the top, evidence below, and honest about what is missing."""

from collections import Counter
from collections.abc import Iterator

from chargehand.workers.report.closing_chapters import answers_from_the_code, not_covered, notes, run_facts
from chargehand.workers.report.contents import ReportInput
from chargehand.workers.report.escaping import code, prose, remark
from chargehand.workers.report.findings_chapters import (
    SEVERITIES,
    by_verdict,
    confirmed_findings,
    dismissed_findings,
    findings_table,
    handed_to_a_person,
    suppressions,
)
from chargehand.workers.report.fixes_chapter import fixes
from chargehand.workers.report.phrases import count, some_code

LIST_ITEMS = 30


def compose_report(report: ReportInput) -> str:
    """The report as Markdown. Everything that came from the repository or an agent is escaped."""
    sections = (
        _top(report),
        findings_table(report),
        _instructions(report),
        confirmed_findings(report),
        fixes(report),
        handed_to_a_person(report),
        dismissed_findings(report),
        suppressions(report),
        not_covered(report),
        answers_from_the_code(report.answers),
        notes(report),
        run_facts(report),
    )
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def verdict_lines(report: ReportInput) -> tuple[str, ...]:
    """The verdict in three lines, counted from the facts; used when no agent wrote one."""
    groups = by_verdict(report)
    confirmed = groups["confirmed"]
    worst: Counter[str] = Counter(finding.severity for finding in confirmed)
    severities = ", ".join(f"{worst[severity]} {severity}" for severity in SEVERITIES if worst[severity])
    first = (
        f"{count(len(confirmed), 'finding')} confirmed ({severities})." if confirmed else "No finding was confirmed."
    )
    outcome = Counter(fix.status for fix in report.fixes)
    second = "No fix was applied."
    if report.fixes:
        second = (
            f"{count(outcome['kept'], 'fix', 'fixes')} kept (no test broke), "
            f"{outcome['reverted']} reverted, {outcome['not_proven'] + outcome['applied']} not proven."
        )
    waiting = len(report.human_tasks) + len(groups["needs_person"]) + len(groups["untriaged"])
    third = (
        f"{count(waiting, 'decision waits', 'decisions wait')} for a person." if waiting else "Nothing waits for you."
    )
    return first, second, third


def _top(report: ReportInput) -> Iterator[str]:
    yield f"# {remark(report.headline, limit=120) or 'Audit of ' + (prose(report.repository) or 'a repository')}"
    yield ""
    lines = report.verdict_lines if len(report.verdict_lines) == 3 else verdict_lines(report)
    for line in lines:
        yield f"> - {remark(line, limit=240)}"
    yield ""
    groups = by_verdict(report)
    outcome = Counter(fix.status for fix in report.fixes)
    unproven = outcome["not_proven"] + outcome["applied"]
    yield (
        f"- Findings: **{len(groups['confirmed'])}** confirmed · **{len(groups['dismissed'])}** dismissed · "
        f"**{len(groups['untriaged'])}** not triaged · **{len(groups['needs_person'])}** for a person"
    )
    tasks = f" · **{len(report.human_tasks)}** handed to a person" if report.human_tasks else ""
    yield (
        f"- Fixes: **{outcome['kept']}** kept · **{outcome['reverted']}** reverted · **{unproven}** not proven{tasks}"
    )
    yield f"- Goal: {prose(report.goal, limit=300)}"
    yield f"- Audited: {prose(report.repository)} at commit {code(report.commit[:12] or 'unknown')}{_size(report)}"
    if report.uncommitted:
        number = count(len(report.uncommitted), "uncommitted file")
        yield f"- **Not looked at:** {number}: {some_code(report.uncommitted)}"
    if report.patch:
        yield f"- Patch: {_patch(report)}"
    if report.facts.language_model_used is False:
        yield "- **No language model was used**: every decision in this report was made by rules."
    if report.gaps:
        yield f"- **Incomplete:** {count(len(report.gaps), 'part')} of this run failed, see *Not covered*."


def _size(report: ReportInput) -> str:
    if report.inventory is None:
        return ""
    shares = ", ".join(f"{prose(name)} {lines:,}" for name, lines in report.inventory.languages[:5])
    size = f", {count(report.inventory.files, 'file')}, {report.inventory.lines:,} lines"
    return f"{size} ({shares})" if shares else size


def _patch(report: ReportInput) -> str:
    patch = report.patch
    if patch is None or patch.is_empty:
        return "empty, no fix was kept"
    said = f" ({remark(patch.problem, limit=200)})" if patch.problem else ""
    checked = {
        True: "`git apply --check` accepts it",
        False: f"**`git apply --check` refuses it**{said}",
        None: "not checked with `git apply`",
    }[patch.applies]
    parts = [code(patch.name), checked]
    if patch.files_changed is not None:
        parts.insert(1, f"{count(patch.files_changed, 'file')} changed")
    if patch.reproduces is False:
        parts.append("**applied, it does not give the files that were tested**")
    if patch.findings_gone:
        parts.append(f"it removes {count(len(patch.findings_gone), 'finding')}: {some_code(patch.findings_gone, 3)}")
    if patch.findings_new:
        parts.append(
            f"**it brings {count(len(patch.findings_new), 'new finding')}**: {some_code(patch.findings_new, 3)}"
        )
    if patch.sha256:
        parts.append(f"sha256 {code(patch.sha256[:16])}")
    return ", ".join(parts)


def _instructions(report: ReportInput) -> Iterator[str]:
    if not report.instructions:
        return
    yield "## Instructions found in the repository"
    yield ""
    yield "These passages tell a reviewer what to conclude. They are quoted as data and had no effect on this report."
    yield ""
    for passage in report.instructions[:LIST_ITEMS]:
        yield f"- {code(f'{passage.path}:{passage.line}')}: “{prose(passage.text, limit=400)}”"
    if len(report.instructions) > LIST_ITEMS:
        yield f"- … and {len(report.instructions) - LIST_ITEMS} more"
