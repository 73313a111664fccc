"""Gathers what the steps of a run left behind into one `ReportInput`.

A step that failed, was never planned or answered something unreadable costs its own part of the report and nothing
else: what is missing becomes a line under *Not covered*.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from chargehand.workers.findings import (
    CheckedAnswer,
    Finding,
    FixAttempt,
    HumanTask,
    TestDelta,
    TestRun,
    Verdict,
)
from chargehand.workers.report.contents import (
    UNDETECTABLE,
    InventorySummary,
    PatchFacts,
    ReportInput,
    RunFacts,
    TaintedInstruction,
)
from chargehand.workers.report.phrases import count

# What is data or prose: no analyser would have found code there.
NOT_CODE = frozenset(
    {"other text", "Markdown", "reStructuredText", "Text", "JSON", "YAML", "TOML", "INI", "CSV", "XML", "CSS"}
)

_CLASSES = tuple(name.split(" (")[0].lower() for name in UNDETECTABLE)


class StepResult(BaseModel):
    """Part of a step's result that the report reads; the rest of it is somebody else's."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class InventoryResult(StepResult):
    """Of `inventory`."""

    files: int = 0
    lines: int = 0
    languages: dict[str, int] = {}
    submodules: tuple[str, ...] = ()
    links: int = 0


class ScanResult(StepResult):
    """Of `scan` and `secrets`."""

    findings: tuple[Finding, ...]
    not_covered: tuple[str, ...] = ()


class TriageResult(StepResult):
    """Of every `triage-…`."""

    verdicts: tuple[Verdict, ...]


class AnswersResult(StepResult):
    """Of `check-answers`."""

    answers: tuple[CheckedAnswer, ...]
    unreadable: dict[str, str] = {}
    """Research step → why its result is no answer."""


class FixResult(StepResult):
    """Of `fix`, where every attempt is *applied*, and of `tests-after`, which knows what became of it."""

    fixes: tuple[FixAttempt, ...] = ()
    before: TestRun | None = None
    after: TestRun | None = None
    delta: TestDelta | None = None
    human_tasks: tuple[HumanTask, ...] = ()


class VerifyResult(StepResult):
    """Of `verify`."""

    patch_artifact: str
    """Its content hash."""
    patch_applies: bool
    patch_reproduces: bool
    patch_problem: str = ""
    patch_bytes: int
    files_changed: tuple[str, ...] = ()
    findings_gone: tuple[str, ...] = ()
    findings_new: tuple[str, ...] = ()


class ReportResult(StepResult):
    """Of `report`, an agent's."""

    headline: str = ""
    verdict_lines: tuple[str, ...] = ()
    notes: str = ""


Result = TypeVar("Result", bound=BaseModel)


@dataclass(kw_only=True, slots=True)
class _Reader:
    """Reads results by step key and remembers what was missing."""

    results: Callable[[str], JsonValue | None]
    planned: frozenset[str]
    gaps: list[str] = field(default_factory=list)

    def read(self, model: type[Result], key: str, loss: str) -> Result | None:
        """The step's result as `model`, or None; the gap is noted when the plan had this step."""
        value = self.results(key)
        if value is None:
            if key in self.planned:
                self.gaps.append(f"Step `{key}` gave no result: {loss}.")
            return None
        try:
            return model.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            self.gaps.append(f"Step `{key}` gave a result that cannot be read ({where}: {first['msg']}): {loss}.")
            return None


def gather_report(
    *,
    goal: str,
    commit: str,
    results: Callable[[str], JsonValue | None],
    steps: Iterable[str],
    repository: str = "",
    repository_uri: str = "",
    uncommitted: tuple[str, ...] = (),
    tool_version: str = "",
    instructions: tuple[TaintedInstruction, ...] = (),
    gaps: tuple[str, ...] = (),
    facts: RunFacts | None = None,
) -> ReportInput:
    """Everything that the steps named in `steps` left behind; `results` gives a step's result by its key."""
    steps = tuple(steps)
    reader = _Reader(results=results, planned=frozenset(steps), gaps=list(gaps))
    inventory = reader.read(InventoryResult, "inventory", "the size of the repository is unknown")
    scans = [
        scan
        for key, loss in (
            ("scan", "bandit and ruff found nothing because nobody asked"),
            ("secrets", "no secret was looked for"),
        )
        if (scan := reader.read(ScanResult, key, loss))
    ]
    findings = _unique(finding for scan in scans for finding in scan.findings)
    answers = reader.read(AnswersResult, "check-answers", "answers were not compared with the files")
    before = reader.read(TestRun, "tests-before", "the tests were not run before the fixes")
    applied = reader.read(FixResult, "fix", "no automatic fix was tried")
    proven = reader.read(FixResult, "tests-after", "no fix is proven by a test")
    verified = reader.read(VerifyResult, "verify", "the patch was not checked")
    written = reader.read(ReportResult, "report", "the summary was counted, not written") or ReportResult()
    verdicts = _verdicts(reader, steps, findings)
    for key, problem in (answers.unreadable if answers else {}).items():
        reader.gaps.append(f"Step `{key}` answered no question ({problem}).")
    fixes = _fixes(applied, proven)
    return ReportInput(
        goal=goal,
        repository=repository,
        commit=commit,
        repository_uri=repository_uri,
        tool_version=tool_version,
        uncommitted=uncommitted,
        inventory=_summary(inventory) if inventory else None,
        findings=findings,
        verdicts=verdicts,
        answers=answers.answers if answers else (),
        fixes=fixes,
        analysed=not reader.planned.isdisjoint(("scan", "secrets")),
        tests_before=before or (proven.before if proven else None),
        tests_after=proven.after if proven else None,
        delta=proven.delta if proven else None,
        patch=_patch(verified) if verified else None,
        human_tasks=(proven or applied or FixResult()).human_tasks,
        not_covered=_not_covered(inventory, scans),
        gaps=tuple(reader.gaps),
        instructions=instructions,
        headline=written.headline,
        verdict_lines=written.verdict_lines,
        notes=written.notes,
        facts=facts or RunFacts(),
    )


def _verdicts(reader: _Reader, steps: tuple[str, ...], findings: tuple[Finding, ...]) -> tuple[Verdict, ...]:
    known = {finding.finding_id for finding in findings}
    decided = [
        verdict
        for key in steps
        if key.startswith("triage")
        and (triage := reader.read(TriageResult, key, "the findings it was given are not triaged"))
        for verdict in triage.verdicts
    ]
    strangers = sum(verdict.finding_id not in known for verdict in decided)
    if strangers:
        reader.gaps.append(f"Verdicts on findings that no scan reported were left out: {strangers}.")
    return tuple(verdict for verdict in decided if verdict.finding_id in known)


def _fixes(applied: FixResult | None, proven: FixResult | None) -> tuple[FixAttempt, ...]:
    if proven and proven.fixes:
        return proven.fixes
    # Nobody compared the tests, so that what was applied stays without a proof.
    return tuple(
        fix.model_copy(update={"status": "not_proven", "evidence": fix.evidence or "No tests were run after it."})
        if fix.status == "applied"
        else fix
        for fix in (applied.fixes if applied else ())
    )


def _summary(inventory: InventoryResult) -> InventorySummary:
    return InventorySummary(
        files=inventory.files,
        lines=inventory.lines,
        languages=tuple(sorted(inventory.languages.items(), key=lambda share: (-share[1], share[0]))),
    )


def _patch(verified: VerifyResult) -> PatchFacts:
    return PatchFacts(
        sha256=verified.patch_artifact,
        applies=verified.patch_applies,
        reproduces=verified.patch_reproduces,
        problem=verified.patch_problem,
        files_changed=len(verified.files_changed),
        is_empty=verified.patch_bytes == 0,
        findings_gone=verified.findings_gone,
        findings_new=verified.findings_new,
    )


def _not_covered(inventory: InventoryResult | None, scans: Iterable[ScanResult]) -> tuple[str, ...]:
    lines = dict.fromkeys(_left_out(inventory) if inventory else ())
    # Both scans name the same skipped folders, and the classes that no scan can see have a list of their own.
    lines |= dict.fromkeys(line for scan in scans for line in scan.not_covered if not line.lower().startswith(_CLASSES))
    return tuple(lines)


def _left_out(inventory: InventoryResult) -> tuple[str, ...]:
    lines = [f"Submodule {path}: its files are in another repository" for path in inventory.submodules]
    if inventory.links:
        lines.append(f"{count(inventory.links, 'symbolic link')}: none was followed")
    others = sorted(set(inventory.languages) - NOT_CODE - {"Python"})
    if others:
        lines.append(f"Code in {', '.join(others)}: bandit and ruff read Python only; it was searched for secrets")
    if "Python" not in inventory.languages:
        lines.append("There is no Python here: bandit and ruff had nothing to read")
    return tuple(lines)


def _unique(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each place once; where two scans met, what both said of it."""
    places: dict[str, Finding] = {}
    for finding in findings:
        other = places.get(finding.finding_id)
        places[finding.finding_id] = _joined(other, finding) if other else finding
    return tuple(places.values())


def _joined(one: Finding, two: Finding) -> Finding:
    first, second = (one, two) if one.rank >= two.rank else (two, one)
    return first.model_copy(
        update={
            "hits": tuple(dict.fromkeys((*first.hits, *second.hits))),
            "reachable_from": tuple(dict.fromkeys((*first.reachable_from, *second.reachable_from))),
            "suppressed_by": first.suppressed_by or second.suppressed_by,
        }
    )
