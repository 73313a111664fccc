"""Safe automatic fixes, one rule in one file at a time, so that each can be judged and taken back alone."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ruff import find_ruff_bin  # type: ignore[import-untyped]

from chargehand.memory.pathnames import is_odd, shown
from chargehand.workers.findings import FixAttempt, Frozen
from chargehand.workers.sandbox import limited
from chargehand.workers.scanners.reports import REPORT_BYTES, batches
from chargehand.workers.scanners.survey import survey
from chargehand.workers.scripts.registry import Workspace

RUFF_TIMEOUT_SECONDS = 120.0
# For a repository that has no ruff configuration: faults that have one obvious repair. No style, no modernising, and
# never RUF100, which removes the comments by which people silence other analysers.
ALLOWED_RULES = (
    "E713", "E714", "F401", "F502", "F504", "F507", "F541", "F601", "F632", "F901", "W605", "B009", "B010", "B013",
    "B033", "PLE1205", "PLE1206", "PLR0133", "PLW0127", "PLW0129", "PLW0245", "PIE794", "PIE796", "RSE102",
)  # fmt: skip
# Different messages of one rule in one file that a description lists.
_MAX_DESCRIBED = 20
_CONFIGURATIONS = ("ruff.toml", ".ruff.toml")


class FixRefused(Exception):
    """The fix is not made; the message says why, for whoever asked."""


class FixCandidate(Frozen):
    """Safe fixes of one rule that one file offers."""

    rule: str
    path: str
    count: int
    description: str
    lines: tuple[int, ...]
    """Where, at most ten."""
    safe: bool = True
    """Ruff holds that the meaning stays; the tests have the last word."""


def candidates(path: Path) -> tuple[FixCandidate, ...]:
    """List what ruff can repair safely, by its own configuration or else by `ALLOWED_RULES`.

    Not listed: RUF100, F401 in `__init__.py` (an import there is often the interface), unsafe fixes, vendored and
    generated files, names that cannot be typed.
    """
    files = [name for name in survey(path).scanned(python_only=True) if not is_odd(name)]
    rows: list[dict[str, object]] = []
    for batch in batches(files):
        rows += _diagnostics(path, batch)
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row in rows:
        fix, rule = row.get("fix"), row.get("code")
        if not isinstance(fix, dict) or fix.get("applicability") != "safe" or not isinstance(rule, str):
            continue
        name = str(Path(str(row["filename"])).relative_to(path.resolve()))
        location = row["location"]
        if _never(rule, name) or not isinstance(location, dict):
            continue
        found.setdefault((rule, name), []).append((int(location["row"]), str(row["message"])))
    return tuple(
        FixCandidate(
            rule=rule,
            path=name,
            count=len(places),
            description=_described([message for _, message in places]),
            lines=tuple(line for line, _ in places[:10]),
        )
        for (rule, name), places in sorted(found.items())
    )


def apply_fix(workspace: Workspace, rule: str, path: str) -> FixAttempt:
    """Make the safe fixes of one rule in one file, and commit only that; or raise `FixRefused` and change nothing."""
    target = _inside(workspace.path, path)
    if _never(rule, path):
        raise FixRefused(f"{rule} is never applied to {path}: it may remove what others rely on; choose another.")
    before = target.read_bytes()
    messages = [
        str(row["message"])
        for row in _diagnostics(workspace.path, [f"./{path}"], rule=rule)
        if isinstance(row.get("fix"), dict) and row["code"] == rule
    ]
    argv = [*_ruff(workspace.path, rule), "--fix", "--exit-zero", "--", f"./{path}"]
    result = limited(argv, folder=workspace.path, timeout_seconds=RUFF_TIMEOUT_SECONDS)
    after = target.read_bytes()
    if after == before:
        said = result.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise FixRefused(f"ruff has no safe fix of {shown(rule)} in {path}{': ' + said[0] if said else ''}.")
    problem = syntax_problem(after, workspace.path)
    if problem:
        target.write_bytes(before)
        raise FixRefused(f"The fix of {rule} in {path} would not parse ({problem}); it was undone.")
    description = _described(messages) if messages else f"{rule} fixed"
    commit = workspace.commit(f"Fix {rule} in {path}\n\n{description}\n")
    return FixAttempt(rule=rule, path=path, description=description, commit=commit, status="applied")


def _diagnostics(path: Path, files: Sequence[str], *, rule: str = "") -> list[dict[str, object]]:
    argv = [*_ruff(path, rule), "--no-fix", "--exit-zero", "--output-format", "json", "--", *files]
    result = limited(argv, folder=path, timeout_seconds=RUFF_TIMEOUT_SECONDS, stdout_bytes=REPORT_BYTES)
    if result.exit_code != 0 and "--isolated" not in argv:
        # Its configuration asks for another version of ruff, or is broken.
        argv = [*_isolated(rule), "--no-fix", "--exit-zero", "--output-format", "json", "--", *files]
        result = limited(argv, folder=path, timeout_seconds=RUFF_TIMEOUT_SECONDS, stdout_bytes=REPORT_BYTES)
    if result.exit_code != 0:
        said = result.stderr.decode("utf-8", "backslashreplace").strip()[-300:]
        raise FixRefused(f"ruff ended with {result.exit_code}: {said or 'no message'}")
    rows: list[dict[str, object]] = json.loads(result.stdout)
    return rows


def _ruff(path: Path, rule: str) -> list[str]:
    """Ruff under the repository's configuration, without its freedom to apply unsafe fixes or to touch comments."""
    if not _is_configured(path):
        return _isolated(rule)
    options = ["--no-cache", "--no-unsafe-fixes", "--extend-unfixable", "RUF100", "--force-exclude"]
    return [find_ruff_bin(), "check", *options, *(["--select", rule] if rule else [])]


def _isolated(rule: str) -> list[str]:
    rules = rule or ",".join(ALLOWED_RULES)
    return [find_ruff_bin(), "check", "--isolated", "--no-cache", "--no-unsafe-fixes", "--select", rules]


def _is_configured(path: Path) -> bool:
    if any((path / name).is_file() for name in _CONFIGURATIONS):
        return True
    project = path / "pyproject.toml"
    return project.is_file() and not project.is_symlink() and b"[tool.ruff" in project.read_bytes()[:1_000_000]


def _never(rule: str, path: str) -> bool:
    return rule == "RUF100" or (rule == "F401" and Path(path).name == "__init__.py")


def _inside(root: Path, path: str) -> Path:
    """The file of that name in the work tree, which must be a real one."""
    target = root / path
    if Path(path).is_absolute() or ".." in Path(path).parts or ".git" in Path(path).parts:
        raise FixRefused(f"'{shown(path)}' is not a path inside the repository; give it relative to the top.")
    if not target.is_file() or target.is_symlink() or not target.resolve().is_relative_to(root.resolve()):
        raise FixRefused(f"'{shown(path)}' is not a file of the repository; look at the list of fixes.")
    return target


def _described(messages: Sequence[str]) -> str:
    counted = Counter(messages)
    listed = counted.most_common(_MAX_DESCRIBED)
    parts = [f"{message} (×{number})" if number > 1 else message for message, number in listed]
    more = len(counted) - len(parts)
    return "; ".join(parts) + (f"; {more} more" if more > 0 else "")


def syntax_problem(source: bytes, folder: Path) -> str:
    """Why Python cannot parse the text, or the empty string; asked of another process, for parsing can take long."""
    argv = [sys.executable, "-I", "-c", "import ast, sys; ast.parse(sys.stdin.buffer.read())"]
    result = limited(argv, folder=folder, timeout_seconds=30.0, stdin=source)
    if result.exit_code == 0:
        return ""
    said = result.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return said[-1] if said else "the parser stopped"
