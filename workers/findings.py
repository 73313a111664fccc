"""What scanners find and agents decide about it: the values that travel from scan to triage to report."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["critical", "high", "medium", "low"]
VerdictKind = Literal["confirmed", "dismissed", "needs_person"]

# The rule of a fix that no rule made.
BY_HAND = "by hand"


class Frozen(BaseModel):
    """A value that is not changed after it was made and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolHit(Frozen):
    """One analyser's word about one place."""

    tool: str
    """`bandit`, `ruff` or `detect-secrets`."""
    rule: str
    """The analyser's own rule id, for example `B608`."""
    message: str
    confidence: Literal["high", "medium", "low"]


class Finding(Frozen):
    """One place that one or more analysers object to, de-duplicated and ranked."""

    finding_id: str
    """Stable across runs: a short hash of path, category and the text of the line."""
    category: str
    """A slug that tools share, for example `sql-injection`."""
    title: str
    severity: Severity
    cwe: int | None
    path: str
    """Relative to the repository; bytes that are not UTF-8 are shown as backslash escapes."""
    line: int
    """1-based."""
    end_line: int
    snippet: str
    """The lines around, at most 12, as they are in the file."""
    hits: tuple[ToolHit, ...]
    suppressed_by: str | None = None
    """The comment that asks tools to be silent here (`# noqa: S608`, `# nosec`), if there is one."""
    reachable_from: tuple[str, ...] = ()
    """Routes or entry points from which a call path to this place was found, for example `GET /parcels`."""
    rank: float = 0.0
    """Severity × reachability × agreement between tools; larger is worse."""

    @property
    def tools(self) -> tuple[str, ...]:
        """The analysers that agree, sorted."""
        return tuple(sorted({hit.tool for hit in self.hits}))


class Verdict(Frozen):
    """An agent's decision about one finding; a dismissal without a reason is refused."""

    finding_id: str
    verdict: VerdictKind
    reason: str = Field(min_length=1)
    """Why, in one or two sentences that name the code."""
    advice: str = ""
    """What to change, for a confirmed finding."""


class Quote(Frozen):
    """A verbatim passage with its place."""

    path: str
    line: int
    text: str


class Answer(Frozen):
    """A researcher's answer to one question, or `found=False`."""

    question: str
    found: bool
    answer: str
    quotes: tuple[Quote, ...] = ()


class CheckedAnswer(Frozen):
    """An answer after each quote was compared with the file, byte for byte."""

    answer: Answer
    quotes_verified: int
    quotes_refuted: tuple[str, ...] = ()
    """`path:line` of quotes that the file does not contain."""


class FixAttempt(Frozen):
    """One fix: one rule in one file, or one edit that a person answered with."""

    rule: str
    """The analyser's, or `BY_HAND`; a second edit of a file is `by hand 2`."""
    path: str
    description: str
    commit: str
    """The commit that holds only this fix."""
    status: Literal["applied", "kept", "reverted", "not_proven"]
    evidence: str = ""
    """For a reverted fix: the test that broke and how; for one not proven: why."""


class TestRun(Frozen):
    """Outcome of one run of the repository's own tests, by test id."""

    __test__ = False  # not a test class, whatever its name

    command: tuple[str, ...]
    runnable: bool
    reason: str = ""
    """Why it cannot run, for example `missing flask`."""
    outcomes: dict[str, str] = Field(default_factory=dict)
    """test id → `passed`, `failed`, `error`, `skipped`."""
    messages: dict[str, str] = Field(default_factory=dict)
    """test id → the end of what the runner said, for tests that failed."""
    files_imported: tuple[str, ...] = ()
    """Files of the repository that the tests imported; a change elsewhere is not proven by them."""
    duration_seconds: float = 0.0
    output_tail: str = ""


class TestDelta(Frozen):
    """What changed between two test runs, by test id."""

    __test__ = False

    turned_green: tuple[str, ...] = ()
    broke: tuple[str, ...] = ()
    still_failing: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()


class HumanTask(Frozen):
    """Something no rule could decide; a person is asked, with the evidence."""

    subject: str
    evidence: str
    asked: str = ""
    """What became of the question, where somebody was asked during the run."""
