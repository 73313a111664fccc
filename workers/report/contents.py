"""What a report is made of: the values of a finished run, before anybody laid them out for a reader."""

from dataclasses import dataclass

from chargehand.workers.findings import (
    CheckedAnswer,
    Finding,
    FixAttempt,
    HumanTask,
    TestDelta,
    TestRun,
    Verdict,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What the run itself cost and how it can be checked; None means that nobody recorded it."""

    run_id: str | None = None
    language_model_used: bool | None = None
    """False: every decision was made by rules, and the report says so."""
    models: tuple[str, ...] = ()
    calls: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cost_microusd: int | None = None
    saved_microusd: int | None = None
    """What the prompt cache saved against paying full price."""
    duration_seconds: float | None = None
    journal_head: str | None = None
    """Hash of the newest row of the run's journal when the report was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InventorySummary:
    """The repository in a few numbers."""

    files: int = 0
    lines: int = 0
    languages: tuple[tuple[str, int], ...] = ()
    """Language and its lines, largest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaintedInstruction:
    """A passage of the repository that tells a reviewer or an agent what to do; shown, never followed."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchFacts:
    """The patch of the fixes that were kept."""

    name: str = "changes.patch"
    sha256: str = ""
    applies: bool | None = None
    """Whether `git apply --check` accepted it on the audited commit; None: not checked."""
    reproduces: bool | None = None
    """Whether applying it gives exactly the files that the tests ran on."""
    problem: str = ""
    """What `git apply` said when it refused."""
    files_changed: int | None = None
    is_empty: bool = False
    findings_gone: tuple[str, ...] = ()
    findings_new: tuple[str, ...] = ()
    """Findings of a scan after the patch that were not there before it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInput:
    """Everything that the report and the SARIF file are composed of."""

    goal: str
    repository: str
    """The name that a person calls it by."""
    commit: str
    repository_uri: str = ""
    """Where it was cloned from, when that is a URL."""
    tool_version: str = ""
    uncommitted: tuple[str, ...] = ()
    """Files that differ from the commit: they were not looked at."""
    inventory: InventorySummary | None = None
    findings: tuple[Finding, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    answers: tuple[CheckedAnswer, ...] = ()
    fixes: tuple[FixAttempt, ...] = ()
    analysed: bool = True
    """False: no analyser was asked, so that a report without findings says nothing about the code."""
    tests_before: TestRun | None = None
    tests_after: TestRun | None = None
    delta: TestDelta | None = None
    patch: PatchFacts | None = None
    human_tasks: tuple[HumanTask, ...] = ()
    not_covered: tuple[str, ...] = ()
    """What this run left out, besides the classes that the analysers can never see."""
    gaps: tuple[str, ...] = ()
    """Steps that failed or gave something unreadable, one line each: what is missing from this report."""
    instructions: tuple[TaintedInstruction, ...] = ()
    headline: str = ""
    verdict_lines: tuple[str, ...] = ()
    notes: str = ""
    facts: RunFacts = RunFacts()

    def verdict_of(self, finding: Finding) -> Verdict | None:
        """The decision about a finding, or None when nobody decided.

        Where two agents were given the same place and disagree, the more careful word counts.
        """
        decided = [verdict for verdict in self.verdicts if verdict.finding_id == finding.finding_id]
        return min(decided, key=lambda verdict: CAREFUL_FIRST.index(verdict.verdict), default=None)


CAREFUL_FIRST = ("confirmed", "needs_person", "dismissed")

# Labelled code shows that ruff S and bandit find nothing of these: a silent report would read as "there is none".
UNDETECTABLE = (
    "Path traversal (CWE-22), but for archives",
    "Cross-site scripting (CWE-79)",
    "Open redirect (CWE-601)",
    "LDAP injection (CWE-90)",
    "Trust boundary violation (CWE-501)",
    "Authorisation and business logic",
)
