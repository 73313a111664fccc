"""The scripts `verify_fixes` and `verify`: what the fixes did to the tests, and the whole patch to the tree."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from chargehand.memory.git import GitFailed, run_git, split_z
from chargehand.memory.pathnames import shown
from chargehand.workers.findings import Finding, FixAttempt, Frozen, HumanTask, TestDelta, TestRun
from chargehand.workers.scripts.culprits import FixLine, credit, parent_of, take_out_culprits
from chargehand.workers.scripts.registry import ScriptContext, Workspace, script
from chargehand.workers.scripts.scan import scan_tree
from chargehand.workers.scripts.tests import TEST_TIMEOUT_SECONDS, compare_tests, run_tests
from chargehand.workers.workspace import diff_between, export_commit

# A person reads each; more of them say one thing: the suite was broken before.
MAX_HUMAN_TASKS = 10
# Rounds of taking culprits out; each full run costs as much as the suite.
MAX_ROUNDS = 5
# What ruff says about an unused import: "`parcel_desk.sms` imported but unused".
_IMPORTED = re.compile(r"`([^`]+)` imported but unused")
RISKY_IMPORT = (
    "It removes an import of a module of this repository, which may be there for its effect, and no test imports this "
    "file"
)


class FixReport(Frozen):
    """The fixes after the tests had their word."""

    fixes: tuple[FixAttempt, ...]
    """In the order they were made; `kept`, `reverted` or `not_proven`."""
    before: TestRun
    after: TestRun
    delta: TestDelta
    human_tasks: tuple[HumanTask, ...]
    commit: str
    """The commit with the fixes that stay."""
    patch_artifact: str
    """`changes.patch` against the user's commit."""


class VerifyReport(Frozen):
    """What was checked mechanically about the outcome."""

    base_commit: str
    commit: str
    patch_applies: bool
    """`git apply --check` on a fresh export of the base commit."""
    patch_reproduces: bool
    """Applying it gives exactly the files of `commit`."""
    patch_problem: str = ""
    patch_artifact: str
    patch_bytes: int
    files_changed: tuple[str, ...]
    findings_before: int
    findings_after: int
    findings_gone: tuple[str, ...]
    """`category path:line` of findings that the patch removed."""
    findings_new: tuple[str, ...]
    """The same of findings that were not there before."""


@script(name="verify_fixes", timeout_seconds=TEST_TIMEOUT_SECONDS * 12)
def verify_fixes_of_step(context: ScriptContext, *, fix: str = "fix", before: str = "tests-before") -> FixReport:
    """Judge the fixes of the step `fix` by the tests, against the run of the step `before` if there was one."""
    workspace = context.open_workspace()
    result = _result(context, fix)
    attempts = [FixAttempt.model_validate(row) for row in _rows(result, "fixes")]
    tasks = [HumanTask.model_validate(row) for row in _rows(result, "human_tasks")]
    earlier = _result(context, before)
    tests_before = TestRun.model_validate(earlier) if earlier is not None else _not_run()
    context.report_progress(f"judging {len(attempts)} fixes by the tests")
    report = judge(workspace, attempts, tests_before, tasks)
    patch = diff_between(workspace.path, workspace.base_commit, report.commit)
    return report.model_copy(update={"patch_artifact": context.put_artifact("changes.patch", patch)})


def judge(
    workspace: Workspace, attempts: Sequence[FixAttempt], before: TestRun, tasks: Sequence[HumanTask] = ()
) -> FixReport:
    """Run the tests on the fixes and take out, one by one, those that broke what was green.

    When the tests cannot run, before or at all, nothing is taken out and every fix is *not proven*.
    """
    applied = [attempt for attempt in attempts if attempt.status == "applied"]
    start = parent_of(workspace, applied[0].commit) if applied else workspace.head_commit
    line = FixLine(
        workspace=workspace,
        start=start,
        attempts=list(applied),
        run_tests=lambda commit, only: run_tests(workspace.path, commit, only=only),
        known={start: before},
    )
    workspace.reset(line.head)
    if not before.runnable:
        _take_out_risky(line, before)
        return _unproven(line, attempts, before, tasks)
    after = run_tests(workspace.path, line.head) if applied else before
    line.known[line.head] = after
    delta = compare_tests(before, after)
    unexplained: list[HumanTask] = []
    for _ in range(MAX_ROUNDS):
        broken = _broken(delta, before)
        if not broken or not line.attempts:
            break
        kept = len(line.attempts)
        unexplained = take_out_culprits(line, broken)
        if len(line.attempts) == kept:
            break
        if line.head not in line.known:
            line.known[line.head] = run_tests(workspace.path, line.head)
        after = line.known[line.head]
        delta = compare_tests(before, after)
    if _take_out_risky(line, after):
        # Nothing that the tests import has changed, but the final commit deserves a run of its own.
        after = run_tests(workspace.path, line.head)
        line.known[line.head] = after
        delta = compare_tests(before, after)
    credits = credit(line, delta.turned_green)
    final = [_kept(attempt, credits, after) for attempt in line.attempts]
    return FixReport(
        fixes=_in_order(attempts, [*final, *line.reverted]),
        before=before,
        after=after,
        delta=delta,
        human_tasks=_tasks(tasks, unexplained, delta, after),
        commit=line.head,
        patch_artifact="",
    )


@script(name="verify", timeout_seconds=1800.0)
def verify(context: ScriptContext, *, fixes: str = "tests-after") -> VerifyReport:
    """Check the final patch against a fresh export of the base commit, and scan both trees again."""
    workspace = context.open_workspace()
    result = _result(context, fixes)
    commit = workspace.head_commit
    if isinstance(result, dict) and isinstance(result.get("commit"), str):
        commit = str(result["commit"])
    context.report_progress("checking the patch and scanning again")
    report, patch = verify_commit(workspace, commit)
    return report.model_copy(update={"patch_artifact": context.put_artifact("changes.patch", patch)})


def verify_commit(workspace: Workspace, commit: str) -> tuple[VerifyReport, bytes]:
    """Give the report on a commit of the clone, and the patch that leads to it from the base commit."""
    git_dir = workspace.path / ".git"
    base = workspace.base_commit
    patch = diff_between(workspace.path, base, commit)
    names = split_z(run_git("diff", "--name-only", "-z", "--no-ext-diff", base, commit, git_dir=git_dir))
    with tempfile.TemporaryDirectory(prefix="chargehand-verify-") as folder:
        old, new, patched = (Path(folder) / name for name in ("old", "new", "patched"))
        export_commit(git_dir, base, old)
        export_commit(git_dir, commit, new)
        export_commit(git_dir, base, patched)
        problem = _apply(git_dir, patched, patch)
        reproduces = not problem and not _differ(git_dir, patched, new)
        before = scan_tree(old).findings
        after = scan_tree(new).findings if patch else before
    known = {finding.finding_id for finding in before}
    still = {finding.finding_id for finding in after}
    report = VerifyReport(
        base_commit=base,
        commit=commit,
        patch_applies=not problem,
        patch_reproduces=reproduces,
        patch_problem=problem,
        patch_artifact="",
        patch_bytes=len(patch),
        files_changed=tuple(shown(name) for name in names),
        findings_before=len(before),
        findings_after=len(after),
        findings_gone=tuple(_place(finding) for finding in before if finding.finding_id not in still),
        findings_new=tuple(_place(finding) for finding in after if finding.finding_id not in known),
    )
    return report, patch


def _apply(git_dir: Path, tree: Path, patch: bytes) -> str:
    """Check, then apply; give what git objects to."""
    if not patch:
        return ""
    try:
        run_git("apply", "--check", "-", git_dir=git_dir, work_tree=tree, stdin=patch)
        run_git("apply", "--whitespace=nowarn", "-", git_dir=git_dir, work_tree=tree, stdin=patch)
    except GitFailed as error:
        return error.said
    return ""


def _differ(git_dir: Path, one: Path, other: Path) -> bool:
    try:
        run_git("diff", "--no-index", "--quiet", "--no-ext-diff", "--", str(one), str(other), git_dir=git_dir)
    except GitFailed:
        return True
    return False


def _place(finding: Finding) -> str:
    return f"{finding.category} {finding.path}:{finding.line}"


def _broken(delta: TestDelta, before: TestRun) -> tuple[str, ...]:
    """Tests that were green and are not any more, gone ones included: a failing import takes all its tests along."""
    gone = [test for test in delta.vanished if before.outcomes.get(test) == "passed"]
    return tuple(dict.fromkeys([*(test for test in delta.broke if "::" in test), *gone]))


def _take_out_risky(line: FixLine, after: TestRun) -> bool:
    """Take out removals of the repository's own modules from files that no test imports, and tell whether any was.

    Such an import is often there for what it does, and nothing would show that it is missing.
    """
    tree = run_git("ls-tree", "-r", "-z", "--name-only", line.start, git_dir=line.workspace.path / ".git")
    own = {
        shown(part) for name in split_z(tree) if name.endswith(b".py") for part in name.removesuffix(b".py").split(b"/")
    }
    risky = [
        position
        for position, attempt in enumerate(line.attempts, start=1)
        if attempt.rule == "F401"
        and attempt.path not in after.files_imported
        and any(_root_module(name) in own or name.startswith(".") for name in _IMPORTED.findall(attempt.description))
    ]
    for position in reversed(risky):
        line.take_out(position, RISKY_IMPORT)
    return bool(risky)


def _root_module(name: str) -> str:
    return name.split(".")[0].split(" ")[0]


def _kept(attempt: FixAttempt, credits: dict[str, list[str]], after: TestRun) -> FixAttempt:
    repaired = credits.get(attempt.commit, [])
    if not repaired and attempt.path not in after.files_imported:
        return attempt.model_copy(update={"status": "not_proven", "evidence": "no test imports this file"})
    passed = sum(outcome == "passed" for outcome in after.outcomes.values())
    evidence = f"turned {', '.join(repaired)} green" if repaired else f"{passed} tests pass, and they import this file"
    return attempt.model_copy(update={"status": "kept", "evidence": evidence})


def _unproven(line: FixLine, attempts: Sequence[FixAttempt], before: TestRun, tasks: Sequence[HumanTask]) -> FixReport:
    why = f"tests unrunnable ({before.reason})"
    final = [attempt.model_copy(update={"status": "not_proven", "evidence": why}) for attempt in line.attempts]
    return FixReport(
        fixes=_in_order(attempts, [*final, *line.reverted]),
        before=before,
        after=before,
        delta=TestDelta(),
        human_tasks=tuple(tasks),
        commit=line.head,
        patch_artifact="",
    )


def _in_order(attempts: Sequence[FixAttempt], judged: Sequence[FixAttempt]) -> tuple[FixAttempt, ...]:
    by_place = {(attempt.rule, attempt.path): attempt for attempt in judged}
    return tuple(by_place.get((attempt.rule, attempt.path), attempt) for attempt in attempts)


def _tasks(
    given: Sequence[HumanTask], unexplained: Sequence[HumanTask], delta: TestDelta, after: TestRun
) -> tuple[HumanTask, ...]:
    """What the agent asks, what no fix explains, and the tests that no rule repairs."""
    failing = [
        HumanTask(
            subject=f"{test} fails, before the fixes and after them",
            evidence=after.messages.get(test, "").strip() or "pytest gave no message",
            asked=next((task.asked for task in given if test in task.subject), ""),
        )
        for test in delta.still_failing[:MAX_HUMAN_TASKS]
    ]
    more = len(delta.still_failing) - len(failing)
    if more > 0:
        rest = ", ".join(delta.still_failing[MAX_HUMAN_TASKS : MAX_HUMAN_TASKS + 20])
        failing.append(HumanTask(subject=f"{more} further tests fail, before and after", evidence=rest))
    # An agent that saw the same test fail has nothing to add to what pytest said of it, but whom it asked.
    asked = [task for task in given if not any(test in task.subject for test in delta.still_failing)]
    return (*asked, *unexplained, *failing)


def _result(context: ScriptContext, key: str) -> JsonValue:
    return context.inputs[key] if key in context.inputs else context.results(key)


def _rows(result: JsonValue, field: str) -> list[JsonValue]:
    rows = result.get(field) if isinstance(result, dict) else None
    return rows if isinstance(rows, list) else []


def _not_run() -> TestRun:
    return TestRun(command=(), runnable=False, reason="no test step in this plan")
