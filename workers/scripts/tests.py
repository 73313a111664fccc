"""The script `tests`: the repository's own tests, run in the sandbox and told apart by test id."""

import json
import os
import re
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from chargehand.memory.pathnames import shown
from chargehand.workers import sandbox
from chargehand.workers.bounded import ChildResult
from chargehand.workers.findings import TestDelta, TestRun
from chargehand.workers.scanners.survey import Survey, is_test_path, survey
from chargehand.workers.scripts.registry import ScriptContext, script
from chargehand.workers.workspace import export_commit, remove_tree

# The repository's suite; a longer one is better run by its own CI.
TEST_TIMEOUT_SECONDS = 300.0
# What the plugin may write, and what is kept of it.
_OUTCOMES_BYTES = 32 << 20
_OUTPUT_TAIL = 4000
_MAX_MESSAGES = 50
# A suite that cannot be collected says the same thing many times.
_MAX_TESTS = 20_000
_CONFIGURATIONS = frozenset({"pyproject.toml", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg"})
_TOOLS = "/run/chargehand"
_OUT = "/run/out"
PYTEST = (
    "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "outcomes_plugin",
    "--rootdir", sandbox.WORKSPACE, "--continue-on-collection-errors", "--color=no", "--tb=short",
)  # fmt: skip
_MISSING = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '([^']+)'")
_GREEN = frozenset({"passed"})
_RED = frozenset({"failed", "error"})


@script(name="tests", timeout_seconds=TEST_TIMEOUT_SECONDS * 2 + 60)
def run_tests_of_step(context: ScriptContext, *, label: str = "") -> TestRun:
    """Run the repository's tests at this attempt's commit; what cannot run is an answer, not an error."""
    workspace = context.open_workspace()
    context.report_progress(f"running the tests ({label})" if label else "running the tests")
    return run_tests(workspace.path, workspace.head_commit)


def run_tests(clone: Path, commit: str, *, only: Sequence[str] = ()) -> TestRun:
    """Run the tests of one commit of a clone, or the files of `only` these test ids, in a copy that is thrown away.

    The clone itself is not shown to the code, so that nothing it leaves behind can be read or committed later.
    """
    with tempfile.TemporaryDirectory(prefix=f".{clone.name}-tests-", dir=clone.parent) as folder:
        tree = Path(folder) / "tree"
        export_commit(clone / ".git", commit, tree)
        try:
            return _run_in(tree, Path(folder) / "out", only=only)
        finally:
            remove_tree(tree)


def detect_test_command(files: Survey) -> tuple[str, ...] | None:
    """Give how this repository's tests are run, or None when it has no Python tests."""
    return ("python", "-m", "pytest") if count_tests(files) else None


def count_tests(files: Survey) -> int:
    """Estimate the number of Python tests by the names of functions in files with a test's name."""
    total = 0
    for file in files.files:
        if file.kind == "python" and not file.left_out and is_test_path(file.path):
            source = (files.root / file.path).read_bytes()
            total += len(re.findall(rb"^[ \t]*(?:async[ \t]+)?def[ \t]+test\w*[ \t]*\(", source, re.MULTILINE))
    return total


@script(name="compare_tests")
def compare_tests_of_step(
    context: ScriptContext, *, before: str = "tests-before", after: str = "tests-after"
) -> TestDelta:
    """Compare the results of two finished `tests` steps, named by their keys."""
    old, new = (TestRun.model_validate(context.results(key)) for key in (before, after))
    return compare_tests(old, new)


def compare_tests(before: TestRun, after: TestRun) -> TestDelta:
    """Tell what changed, test by test. Pure.

    A batch of changes can repair one test and break another with the same number failing; only ids show that.
    """
    turned_green: list[str] = []
    broke: list[str] = []
    still_failing: list[str] = []
    vanished: list[str] = []
    for test, old in sorted(before.outcomes.items()):
        new = after.outcomes.get(test)
        if new is None:
            # Green and gone is as bad as broken; a collection error that is gone is good news.
            (turned_green if old in _RED and _is_file(test) else vanished).append(test)
        elif old in _GREEN and new in _RED:
            broke.append(test)
        elif old in _RED and new in _GREEN:
            turned_green.append(test)
        elif old in _RED and new in _RED:
            still_failing.append(test)
    fresh = [test for test, outcome in after.outcomes.items() if outcome in _RED and test not in before.outcomes]
    return TestDelta(
        turned_green=tuple(turned_green),
        broke=tuple(sorted([*broke, *fresh])),
        still_failing=tuple(still_failing),
        vanished=tuple(vanished),
    )


def _is_file(test: str) -> bool:
    return "::" not in test


def _run_in(tree: Path, out: Path, *, only: Sequence[str]) -> TestRun:
    files = survey(tree)
    command = detect_test_command(files)
    if command is None:
        return TestRun(command=(), runnable=False, reason="no tests found")
    status = sandbox.available()
    if not status.ok:
        return TestRun(command=command, runnable=False, reason=status.reason)
    quiet = _unmentioned_plugins(files)
    chosen = [f"./{name}" for name in sorted({test.split("::")[0] for test in only})]
    result = _pytest(tree, out, [*quiet, *chosen])
    if result.exit_code == 4 and b"unrecognized arguments" in result.stderr + result.stdout:
        # Options of plugins that are not installed here (`--cov`, `-n auto`) are not needed to run the tests.
        result = _pytest(tree, out, [*quiet, "-o", "addopts=", *chosen])
    return _judged(command, result, _recorded(out))


def _unmentioned_plugins(files: Survey) -> list[str]:
    """Options that keep out pytest plugins of our own installation which the repository does not name.

    It cannot need them, and importing them takes longer than most suites.
    """
    texts = [
        (files.root / file.path).read_bytes().lower()
        for file in files.files
        if not file.left_out and (file.path in _CONFIGURATIONS or (file.kind == "python" and is_test_path(file.path)))
    ]
    options = []
    for plugin in entry_points(group="pytest11"):
        package = plugin.dist.name if plugin.dist is not None else plugin.name
        names = {plugin.name, re.sub(r"^pytest[-_]", "", package)}
        if not any(name.lower().encode() in text for name in names for text in texts):
            options += ["-p", f"no:{plugin.name}"]
    return options


def _pytest(tree: Path, out: Path, arguments: Sequence[str]) -> ChildResult:
    remove_tree(out)
    out.mkdir()
    (out / "outcomes.jsonl").touch()
    plugin = Path(__file__).with_name("outcomes_plugin.py")
    import_path = [_TOOLS, sandbox.WORKSPACE, *([f"{sandbox.WORKSPACE}/src"] if (tree / "src").is_dir() else [])]
    return sandbox.run(
        [sys.executable, *PYTEST[1:], *arguments],
        workspace=tree,
        writable=True,
        timeout_seconds=TEST_TIMEOUT_SECONDS,
        binds=(
            sandbox.Bind(source=plugin, target=f"{_TOOLS}/outcomes_plugin.py"),
            sandbox.Bind(source=out, target=_OUT, writable=True),
        ),
        environment={"PYTHONPATH": ":".join(import_path), "CHARGEHAND_OUTCOMES": f"{_OUT}/outcomes.jsonl"},
    )


@dataclass(kw_only=True, slots=True)
class _Recorded:
    """What the plugin wrote, as far as it can be believed to be well-formed."""

    outcomes: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def _recorded(out: Path) -> _Recorded:
    """Read what the plugin wrote, trusting nothing about it: the code could have put a link or a pipe there."""
    found = _Recorded()
    try:
        descriptor = os.open(out / "outcomes.jsonl", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return found
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return found
        content = file.read(_OUTCOMES_BYTES)
    for line in content.splitlines()[:_MAX_TESTS]:
        try:
            row = json.loads(line)
            if "files" in row:
                found.files = tuple(shown(str(name)) for name in row["files"])
                continue
            test, outcome, message = _storable(row["test"]), str(row["outcome"]), _storable(row["message"])
        except (ValueError, KeyError, TypeError):
            # Cut off by the end of the process, or written by the code under test.
            continue
        if outcome in ("passed", "failed", "error", "skipped"):
            found.outcomes[test] = outcome
            found.messages[test] = message
    return found


def _storable(text: object) -> str:
    """Text that UTF-8 and Postgres take."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _judged(command: tuple[str, ...], result: ChildResult, recorded: _Recorded) -> TestRun:
    outcomes, messages = recorded.outcomes, recorded.messages
    output = (result.stdout + b"\n" + result.stderr).decode("utf-8", "backslashreplace").replace("\0", "\\x00").strip()
    reason = ""
    ran = any("::" in test for test in outcomes)
    if not ran:
        reason = _why_not(result, outcomes, "\n".join([*messages.values(), output]))
    elif result.killed:
        reason = f"stopped before its end, {_spoken(result.killed)}; {len(outcomes)} tests had run"
    return TestRun(
        command=command,
        runnable=ran and not result.killed,
        reason=reason,
        outcomes=outcomes,
        messages=dict([(test, said) for test, said in messages.items() if said][:_MAX_MESSAGES]),
        files_imported=recorded.files,
        duration_seconds=round(result.duration_seconds, 3),
        output_tail=output[-_OUTPUT_TAIL:],
    )


def _why_not(result: ChildResult, outcomes: dict[str, str], output: str) -> str:
    missing = [name.split(".")[0] for name in _MISSING.findall(output)]
    if missing:
        names = [name for name, _ in Counter(missing).most_common(3)]
        return f"missing {', '.join(names)}"
    if result.killed:
        return f"stopped before any test ended, {_spoken(result.killed)}"
    if result.exit_code == 5 or not outcomes:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), "")
        return "no tests found" if result.exit_code == 5 else f"pytest ended with {result.exit_code}: {last[:200]}"
    return f"{len(outcomes)} test files cannot be imported"


def _spoken(killed: str) -> str:
    return f"after {TEST_TIMEOUT_SECONDS:.0f} s" if killed == "time" else f"at its {killed} limit"
