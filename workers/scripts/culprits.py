"""Which of several commits broke a test: found by running the test between them, and taken out of the line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chargehand.memory.git import run_git
from chargehand.workers.findings import BY_HAND, FixAttempt, HumanTask, TestRun
from chargehand.workers.scripts.fixes import FixRefused, apply_fix
from chargehand.workers.scripts.registry import Workspace
from chargehand.workers.workspace import apply_patch, diff_between

RED = frozenset({"failed", "error"})
# Each costs a few runs of one test file; beyond this the report only names the tests.
MAX_ATTRIBUTED = 5

RunTests = Callable[[str, Sequence[str]], TestRun]
"""Runs the tests of a commit; the files of these test ids, or all."""


def is_bad(run: TestRun, test: str) -> bool:
    """A test that is red, or that is no longer there."""
    return run.outcomes.get(test, "error") in RED


@dataclass(kw_only=True, slots=True)
class FixLine:
    """Fixes in a row on one commit, each of which can be taken out."""

    workspace: Workspace
    start: str
    """The commit before the first fix."""
    attempts: list[FixAttempt]
    """Those still in the line, oldest first."""
    run_tests: RunTests
    known: dict[str, TestRun]
    """Runs of all tests by commit, which need not be repeated."""
    reverted: list[FixAttempt] = field(default_factory=list)
    _partial: dict[tuple[str, str], TestRun] = field(default_factory=dict, repr=False)

    @property
    def head(self) -> str:
        """The commit with every fix that is still in the line."""
        return self.attempts[-1].commit if self.attempts else self.start

    def run(self, commit: str, test: str) -> TestRun:
        """Give a run of the commit that has a word on this test; each is made once."""
        whole = self.known.get(commit)
        if whole is not None:
            return whole
        key = (commit, test.split("::")[0])
        if key not in self._partial:
            self._partial[key] = self.run_tests(commit, [test])
        return self._partial[key]

    def first_where(self, test: str, wanted: Callable[[TestRun, str], bool]) -> int | None:
        """Give the number of fixes after which `wanted` holds of the test for the first time, or None.

        None: it already holds before the first fix, or does not hold after the last: no fix did it.
        """
        low, high = 0, len(self.attempts)
        if not high or wanted(self.run(self.start, test), test) or not wanted(self.run(self.head, test), test):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if wanted(self.run(self.attempts[middle - 1].commit, test), test):
                high = middle
            else:
                low = middle
        return high

    def take_out(self, position: int, evidence: str) -> None:
        """Remove the fix at this place (from 1) and set the later ones again on the commit before it.

        A later fix whose patch no longer fits is made anew by ruff; if that fails it goes too, and says why.
        """
        culprit, later = self.attempts[position - 1], self.attempts[position:]
        self.attempts = self.attempts[: position - 1]
        self.reverted.append(culprit.model_copy(update={"status": "reverted", "evidence": evidence}))
        self.workspace.reset(self.head)
        for attempt in later:
            again = self._again(attempt)
            if isinstance(again, str):
                why = f"could not be made again without {culprit.rule} in {culprit.path}: {again}"
                self.reverted.append(attempt.model_copy(update={"status": "reverted", "evidence": why}))
            else:
                self.attempts.append(again)

    def _again(self, attempt: FixAttempt) -> FixAttempt | str:
        patch = diff_between(self.workspace.path, f"{attempt.commit}^", attempt.commit)
        if not apply_patch(self.workspace.path, patch):
            commit = self.workspace.commit(f"Fix {attempt.rule} in {attempt.path}\n\n{attempt.description}\n")
            return attempt.model_copy(update={"commit": commit})
        if attempt.rule.startswith(BY_HAND):
            return "its lines are not there without that"
        try:
            return apply_fix(self.workspace, attempt.rule, attempt.path)
        except FixRefused as refusal:
            return str(refusal)


def take_out_culprits(line: FixLine, broken: Sequence[str]) -> list[HumanTask]:
    """Take out of the line every fix that broke one of these tests; give what no fix explains to a person."""
    tasks = []
    for test in broken:
        if not is_bad(line.run(line.head, test), test):
            # Taking out an earlier culprit has repaired it.
            continue
        position = line.first_where(test, is_bad) if is_bad(line.run_tests(line.head, [test]), test) else None
        if position is None:
            tasks.append(
                HumanTask(
                    subject=f"{test} does not always give the same result",
                    evidence="It was green before the fixes and red after them, but no fix explains it: run again, "
                    "it is green, or it is red without any fix.",
                )
            )
            continue
        culprit = line.attempts[position - 1]
        said = line.run(culprit.commit, test).messages.get(test, "").strip()
        line.take_out(position, f"{test} was green before this fix and broke with it.\n{said}".strip())
    return tasks


def credit(line: FixLine, turned_green: Sequence[str]) -> dict[str, list[str]]:
    """Tell by commit which tests each fix turned green, for the first few of them."""
    credits: dict[str, list[str]] = {}
    for test in turned_green[:MAX_ATTRIBUTED]:
        position = line.first_where(test, lambda run, name: not is_bad(run, name))
        if position is not None:
            credits.setdefault(line.attempts[position - 1].commit, []).append(test)
    return credits


def parent_of(workspace: Workspace, commit: str) -> str:
    """The commit before this one."""
    return run_git("rev-parse", "--verify", f"{commit}^", git_dir=workspace.path / ".git").decode().strip()
