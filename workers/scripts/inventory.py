"""The script `inventory`: what a repository consists of, so that a plan can be made to fit it."""

import json
import os
import re
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from chargehand.memory.git import run_git, split_z
from chargehand.memory.pathnames import is_odd, shown
from chargehand.workers.findings import Frozen
from chargehand.workers.scanners.reachability import trace
from chargehand.workers.scanners.structure import read_structures
from chargehand.workers.scanners.survey import MAX_SCANNED_BYTES, SourceFile, Survey, survey
from chargehand.workers.scripts.registry import ScriptContext, script
from chargehand.workers.scripts.tests import count_tests, detect_test_command
from chargehand.workers.workspace import export_commit

# A plan needs examples, not lists: the inventory is part of every agent's prompt.
MAX_LISTED = 40

_LANGUAGES = {
    ".py": "Python", ".pyw": "Python", ".pyi": "Python", ".js": "JavaScript", ".jsx": "JavaScript",
    ".mjs": "JavaScript", ".ts": "TypeScript", ".tsx": "TypeScript", ".go": "Go", ".rs": "Rust", ".c": "C",
    ".h": "C", ".cc": "C++", ".cpp": "C++", ".hpp": "C++", ".java": "Java", ".kt": "Kotlin", ".rb": "Ruby",
    ".php": "PHP", ".cs": "C#", ".swift": "Swift", ".scala": "Scala", ".sh": "Shell", ".bash": "Shell",
    ".sql": "SQL", ".html": "HTML", ".htm": "HTML", ".css": "CSS", ".scss": "CSS", ".md": "Markdown",
    ".rst": "reStructuredText", ".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".xml": "XML",
    ".lua": "Lua", ".pl": "Perl", ".r": "R", ".ex": "Elixir", ".hs": "Haskell", ".vue": "Vue", ".tf": "Terraform",
}  # fmt: skip
_MANIFESTS = re.compile(
    r"(?:^|/)(?:pyproject\.toml|setup\.(?:py|cfg)|requirements[^/]*\.txt|Pipfile|poetry\.lock|uv\.lock|package\.json|"
    r"go\.mod|Cargo\.toml|pom\.xml|build\.gradle(?:\.kts)?|Gemfile|composer\.json|Makefile|Dockerfile|tox\.ini|"
    r"noxfile\.py|docker-compose\.ya?ml|CMakeLists\.txt)$"
)


class LargeFile(Frozen):
    """A file that analysers skip for its size."""

    path: str
    size_bytes: int


class Inventory(Frozen):
    """What a commit consists of; lists are cut at `MAX_LISTED`, counts are not."""

    files: int
    lines: int
    languages: dict[str, int] = Field(default_factory=dict)
    """Language → lines, largest first."""
    python_files: int
    python_lines: int
    text_files: int
    binary_files: int
    manifests: tuple[str, ...]
    entry_points: tuple[str, ...]
    """Programs: console scripts of the manifest and modules with a main guard."""
    routes: tuple[str, ...]
    route_count: int
    test_command: tuple[str, ...] | None
    """None: no Python tests were found."""
    test_count_estimate: int
    has_python: bool
    largest_folders: dict[str, int] = Field(default_factory=dict)
    """Top-level folder → lines of code that is analysed."""
    large_files: tuple[LargeFile, ...]
    submodules: tuple[str, ...]
    odd_names: tuple[str, ...]
    """Names with control characters or bytes that are not UTF-8, as escapes."""
    skipped_dirs: tuple[str, ...]
    links: int
    not_parsed: tuple[str, ...]
    """Python files whose structure could not be read."""
    readme: str | None


@script(name="inventory", timeout_seconds=300.0)
def inventory(context: ScriptContext) -> Inventory:
    """Take stock of the commit that the run starts from."""
    workspace = context.open_workspace()
    rows = split_z(run_git("ls-tree", "-r", "-z", workspace.head_commit, git_dir=workspace.path / ".git"))
    submodules = tuple(shown(row.split(b"\t", 1)[1]) for row in rows if row.startswith(b"160000 "))
    context.report_progress("taking stock")
    with tempfile.TemporaryDirectory(prefix="chargehand-inventory-") as folder:
        root = Path(folder) / "tree"
        export_commit(workspace.path / ".git", workspace.head_commit, root)
        return take_stock(root, submodules=submodules)


def take_stock(root: Path, *, submodules: tuple[str, ...] = ()) -> Inventory:
    """Count and classify the files of a folder; nothing of it is executed or imported."""
    found = survey(root)
    text = [file for file in found.files if file.kind in ("python", "text")]
    python = [file for file in found.files if file.kind == "python"]
    languages: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for file in text:
        languages[_language(file)] += file.lines
        if not file.left_out:
            folders[file.label.split("/")[0] if "/" in file.label else "."] += file.lines
    structures, unparsed = read_structures(root, found.scanned(python_only=True))
    reachability = trace(structures)
    programs = [*_console_scripts(root), *reachability.programs]
    return Inventory(
        files=len(found.files),
        lines=sum(file.lines for file in text),
        languages=dict(languages.most_common(MAX_LISTED)),
        python_files=len(python),
        python_lines=sum(file.lines for file in python),
        text_files=len(text),
        binary_files=sum(file.kind == "binary" for file in found.files),
        manifests=_listed(file.label for file in found.files if _MANIFESTS.search(file.path)),
        entry_points=tuple(programs[:MAX_LISTED]),
        routes=reachability.routes[:MAX_LISTED],
        route_count=len(reachability.routes),
        test_command=detect_test_command(found),
        test_count_estimate=count_tests(found),
        has_python=bool(python),
        largest_folders=dict(folders.most_common(MAX_LISTED)),
        large_files=tuple(
            LargeFile(path=file.label, size_bytes=file.size_bytes)
            for file in sorted(found.files, key=lambda file: -file.size_bytes)[:MAX_LISTED]
            if file.size_bytes > MAX_SCANNED_BYTES
        ),
        submodules=submodules,
        odd_names=_listed(file.label for file in found.files if is_odd(file.path)),
        skipped_dirs=found.skipped_folders[:MAX_LISTED],
        links=sum(file.kind == "link" for file in found.files),
        not_parsed=_listed(shown(path.removeprefix("./")) for path in unparsed),
        readme=_readme(found),
    )


def _listed(labels: Iterator[str]) -> tuple[str, ...]:
    return tuple(sorted(labels)[:MAX_LISTED])


def _language(file: SourceFile) -> str:
    if file.kind == "python":
        return "Python"
    return _LANGUAGES.get(os.path.splitext(file.path)[1].lower(), "other text")


def _readme(found: Survey) -> str | None:
    names = [file.label for file in found.files if re.match(r"readme(?:\.\w+)?\Z", file.label, re.IGNORECASE)]
    return names[0] if names else None


def _console_scripts(root: Path) -> list[str]:
    """Commands that installing the repository would give."""
    return [f"command {name}" for name in (*_pyproject_scripts(root), *_npm_binaries(root))]


def _pyproject_scripts(root: Path) -> list[str]:
    document = _parsed(root / "pyproject.toml")
    project = document.get("project")
    scripts = project.get("scripts") if isinstance(project, dict) else None
    return sorted(shown(str(name)) for name in scripts) if isinstance(scripts, dict) else []


def _npm_binaries(root: Path) -> list[str]:
    document = _parsed(root / "package.json")
    binaries = document.get("bin")
    return sorted(shown(str(name)) for name in binaries) if isinstance(binaries, dict) else []


def _parsed(path: Path) -> dict[str, object]:
    """A small manifest as a table; one that is broken, huge or a link says nothing."""
    try:
        if path.is_symlink() or path.stat().st_size > MAX_SCANNED_BYTES:
            return {}
        text = path.read_text("utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
