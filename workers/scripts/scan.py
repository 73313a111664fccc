"""The scripts `scan` and `secrets`: what the analysers find in a commit, merged and ranked."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from pydantic import Field

from chargehand.memory.pathnames import shown
from chargehand.workers.findings import Finding, Frozen
from chargehand.workers.scanners import bandit, ruff, secrets
from chargehand.workers.scanners.merge import merge
from chargehand.workers.scanners.reachability import Reachability, trace
from chargehand.workers.scanners.reports import RawHit, ToolReport
from chargehand.workers.scanners.structure import ModuleStructure, read_structures
from chargehand.workers.scanners.survey import Survey, survey
from chargehand.workers.scripts.registry import ScriptContext, script
from chargehand.workers.workspace import export_commit

# More than a person or a model reads; the rest is counted in `not_covered`.
MAX_FINDINGS = 400
# Each skipped file of a large repository is not worth a line.
MAX_NOT_COVERED = 60
# What these analysers cannot see, measured on labelled code: none of it needs a missing file to be missed.
BLIND_SPOTS = (
    "path traversal (CWE-22) outside archives: needs data-flow analysis, which these analysers do not do",
    "cross-site scripting (CWE-79) outside template settings: needs data-flow analysis",
    "open redirects (CWE-601): needs data-flow analysis",
    "LDAP injection, trust boundaries, authorisation and business logic",
)


class Suppression(Frozen):
    """A place where somebody asked analysers to be silent."""

    finding_id: str
    path: str
    line: int
    suppressed_by: str


class ScanReport(Frozen):
    """What analysers found, worst first."""

    findings: tuple[Finding, ...]
    """Suppressed ones are among them: whether the comment is right is for triage to say."""
    suppressions: tuple[Suppression, ...]
    by_severity: dict[str, int] = Field(default_factory=dict)
    tool_versions: dict[str, str]
    files_scanned: int
    not_covered: tuple[str, ...]
    """One line for each file, folder or kind of fault that was not looked at, with the reason."""
    routes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


@script(name="scan", timeout_seconds=900.0)
def scan(context: ScriptContext, *, paths: Sequence[str] = ()) -> ScanReport:
    """Scan the Python files with bandit and ruff; `paths` keeps only what is below them."""
    workspace = context.open_workspace()
    with tempfile.TemporaryDirectory(prefix="chargehand-scan-") as folder:
        root = Path(folder) / "tree"
        export_commit(workspace.path / ".git", workspace.head_commit, root)
        context.report_progress("scanning with bandit and ruff")
        return scan_tree(root, paths=paths)


@script(name="secrets", timeout_seconds=900.0)
def scan_secrets(context: ScriptContext, *, paths: Sequence[str] = ()) -> ScanReport:
    """Look for secrets in every text file with detect-secrets; found secrets are shortened in what is shown."""
    workspace = context.open_workspace()
    with tempfile.TemporaryDirectory(prefix="chargehand-scan-") as folder:
        root = Path(folder) / "tree"
        export_commit(workspace.path / ".git", workspace.head_commit, root)
        context.report_progress("looking for secrets")
        return secrets_in_tree(root, paths=paths)


def scan_tree(root: Path, *, paths: Sequence[str] = ()) -> ScanReport:
    """Scan a folder that holds a checked-out commit; nothing of it is executed."""
    files = survey(root)
    chosen = _below(files.scanned(python_only=True), paths)
    every = files.scanned(python_only=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        by_bandit = pool.submit(bandit.scan, root, chosen)
        by_ruff = pool.submit(ruff.scan, root, chosen)
        structures, unparsed = read_structures(root, every)
        reports = [by_bandit.result(), by_ruff.result(), _silenced(structures, chosen)]
    reachability = trace(structures)
    findings = merge(reports, lines=_line_reader(root), reachability=reachability)
    unranked = [
        f"{shown(path.removeprefix('./'))} (not parsed: findings there are ranked as unreachable)" for path in unparsed
    ]
    return _report(
        findings,
        reports[:2],
        files_scanned=len(chosen),
        not_covered=[*_skipped(files, python_only=True), *_failures(reports), *unranked],
        blind_spots=BLIND_SPOTS,
        reachability=reachability,
    )


def secrets_in_tree(root: Path, *, paths: Sequence[str] = ()) -> ScanReport:
    """Look for secrets in a folder that holds a checked-out commit."""
    files = survey(root)
    chosen = _below(files.scanned(python_only=False), paths)
    reports = [secrets.scan(root, chosen)]
    findings = merge(reports, lines=_line_reader(root))
    return _report(
        findings,
        reports,
        files_scanned=len(chosen),
        not_covered=[*_skipped(files, python_only=False), *_failures(reports)],
        blind_spots=("secrets in the history: only the files of this commit were read",),
    )


def _report(
    findings: tuple[Finding, ...],
    reports: Sequence[ToolReport],
    *,
    files_scanned: int,
    not_covered: list[str],
    blind_spots: Sequence[str],
    reachability: Reachability | None = None,
) -> ScanReport:
    kept = findings[:MAX_FINDINGS]
    if len(findings) > len(kept):
        not_covered = [f"{len(findings) - len(kept)} further findings, all ranked below {kept[-1].rank}", *not_covered]
    if len(not_covered) > MAX_NOT_COVERED:
        left = len(not_covered) - MAX_NOT_COVERED
        not_covered = [*not_covered[:MAX_NOT_COVERED], f"{left} further files were left out"]
    return ScanReport(
        findings=kept,
        suppressions=tuple(
            Suppression(
                finding_id=finding.finding_id,
                path=finding.path,
                line=finding.line,
                suppressed_by=finding.suppressed_by,
            )
            for finding in kept
            if finding.suppressed_by is not None
        ),
        by_severity=dict(Counter(finding.severity for finding in findings)),
        tool_versions={report.tool: report.version for report in reports},
        files_scanned=files_scanned,
        not_covered=(*not_covered, *blind_spots),
        routes=reachability.routes if reachability is not None else (),
        programs=reachability.programs if reachability is not None else (),
    )


def _below(files: Sequence[str], paths: Sequence[str]) -> tuple[str, ...]:
    if not paths:
        return tuple(files)
    wanted = [path.removeprefix("./").rstrip("/") for path in paths]
    return tuple(
        name
        for name in files
        if any(name.removeprefix("./") == path or name.removeprefix("./").startswith(f"{path}/") for path in wanted)
    )


def _silenced(structures: Sequence[ModuleStructure], chosen: Sequence[str]) -> ToolReport:
    """Weak hashes that an argument hides from both analysers: that silence is somebody's claim, to be judged too."""
    names = {name.removeprefix("./") for name in chosen}
    hits = [
        RawHit(
            tool="chargehand",
            rule="usedforsecurity",
            path=structure.path,
            line=line,
            end_line=end_line,
            message=f"{name} is declared as not used for security, which keeps bandit and ruff silent",
            confidence="low",
            silenced_by="usedforsecurity=False",
        )
        for structure in structures
        if structure.path in names
        for line, end_line, name in structure.silenced_hashes
    ]
    return ToolReport(tool="chargehand", version="", hits=tuple(hits))


def _skipped(files: Survey, *, python_only: bool) -> tuple[str, ...]:
    return files.not_covered(python_only=python_only)


def _failures(reports: Sequence[ToolReport]) -> list[str]:
    return [line for report in reports for line in report.not_covered]


def _line_reader(root: Path) -> Callable[[str], Sequence[str]]:
    # Not `splitlines`: analysers count line feeds only.
    @cache
    def lines(path: str) -> Sequence[str]:
        return (root / path).read_bytes().decode("utf-8", "backslashreplace").replace("\0", "�").split("\n")

    return lines
