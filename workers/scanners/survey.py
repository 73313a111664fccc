"""Which files of a repository are worth an analyser's time, and which are left out and why."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from chargehand.memory.pathnames import is_odd, shown

FileKind = Literal["python", "text", "binary", "link"]

# Code of others, or of a machine: a finding there is not this repository's to fix.
VENDORED_FOLDERS = frozenset(
    {
        "node_modules", "bower_components", "vendor", "vendored", "third_party", "site-packages", ".venv", "venv",
        "virtualenv", ".tox", ".nox", ".eggs", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    }
)  # fmt: skip
# These names are outputs only at the top; deeper they are ordinary packages.
OUTPUT_FOLDERS = frozenset({"dist", "build", "htmlcov"})
# Larger files are data, whatever their suffix; parsing one stalls an analyser for minutes.
MAX_SCANNED_BYTES = 1_000_000
_SNIFFED_BYTES = 8_192
_GENERATED = re.compile(rb"@generated|(?:DO NOT|do not|Do not) (?:EDIT|edit)\b")
_MINIFIED_SUFFIXES = (".min.js", ".min.css", ".bundle.js", ".map")
_PYTHON_SHEBANG = re.compile(rb"#!.*\bpython[\d.]*\b")
_TEST_PATH = re.compile(r"(?:^|/)(?:tests?|testing)/|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file, as the walk met it."""

    path: str
    """Relative; bytes that are not UTF-8 are surrogate escapes, as Python opens them."""
    size_bytes: int
    kind: FileKind
    lines: int
    left_out: str = ""
    """Why analysers do not get it; empty when they do."""

    @property
    def label(self) -> str:
        """The path as it may be shown and stored."""
        return shown(self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """All files below a folder, sorted by path."""

    root: Path
    files: tuple[SourceFile, ...]
    skipped_folders: tuple[str, ...]
    """Vendored and generated folders that were not entered, printable."""

    def scanned(self, *, python_only: bool) -> tuple[str, ...]:
        """Paths that an analyser gets, each beginning with `./` so that none is taken for an option."""
        return tuple(
            f"./{file.path}"
            for file in self.files
            if not file.left_out and (file.kind == "python" or (not python_only and file.kind == "text"))
        )

    def not_covered(self, *, python_only: bool) -> tuple[str, ...]:
        """One line for each thing an analyser of this kind does not see."""
        lines = [f"folder {folder}/ (vendored or generated)" for folder in self.skipped_folders]
        lines += [
            f"{file.label} ({file.left_out})"
            for file in self.files
            if file.left_out and (not python_only or file.kind == "python" or file.path.endswith(".py"))
        ]
        return tuple(lines)


def survey(root: Path) -> Survey:
    """Walk `root` without following links and classify each file by its first bytes."""
    files: list[SourceFile] = []
    skipped: list[str] = []
    for folder, folders, names in os.walk(root):
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else f"{inside}/"
        kept = []
        for name in sorted(folders):
            if name == ".git":
                continue
            if os.path.islink(os.path.join(folder, name)):
                files.append(SourceFile(path=f"{prefix}{name}", size_bytes=0, kind="link", lines=0))
            elif name in VENDORED_FOLDERS or (not prefix and name in OUTPUT_FOLDERS):
                skipped.append(shown(f"{prefix}{name}"))
            else:
                kept.append(name)
        folders[:] = kept
        files.extend(_read(root, f"{prefix}{name}") for name in names if f"{prefix}{name}" != ".git")
    return Survey(root=root, files=tuple(sorted(files, key=lambda file: file.path)), skipped_folders=tuple(skipped))


def is_test_path(path: str) -> bool:
    """Whether a file is part of the tests, by the names that test runners look for."""
    return _TEST_PATH.search(path) is not None


def _read(root: Path, path: str) -> SourceFile:
    full = os.path.join(root, path)
    status = os.lstat(full)
    if not stat.S_ISREG(status.st_mode):
        return SourceFile(path=path, size_bytes=0, kind="link", lines=0)
    with open(full, "rb") as file:
        start = file.read(_SNIFFED_BYTES)
        kind = _kind(path, start)
        lines = start.count(b"\n") + sum(chunk.count(b"\n") for chunk in _chunks(file)) if kind != "binary" else 0
        if lines == 0 and start and kind != "binary":
            lines = 1
    return SourceFile(
        path=path,
        size_bytes=status.st_size,
        kind=kind,
        lines=lines,
        left_out=_left_out(path, status.st_size, kind, start),
    )


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(1 << 20):
        yield chunk


def _kind(path: str, start: bytes) -> FileKind:
    if b"\0" in start:
        return "binary"
    if path.endswith((".py", ".pyw")) or _PYTHON_SHEBANG.match(start):
        return "python"
    return "text"


def _left_out(path: str, size_bytes: int, kind: FileKind, start: bytes) -> str:
    if kind == "binary":
        return "binary"
    if size_bytes > MAX_SCANNED_BYTES:
        return f"{size_bytes / 1e6:.1f} MB, larger than {MAX_SCANNED_BYTES / 1e6:.0f} MB"
    if path.endswith(_MINIFIED_SUFFIXES):
        return "minified"
    if path.endswith("_pb2.py") or _GENERATED.search(start[:1024]):
        return "generated"
    if is_odd(path) and any("\udc80" <= letter <= "\udcff" for letter in path):
        return "its name is not UTF-8, which the analysers cannot report"
    return ""
