"""Asks a child process for the outline of a source file, so that no worker's thread parses anything."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Self

from chargehand.memory.outline import Outline

PROGRAM = "chargehand.memory.syntax"
# After so many deaths the files are hostile or the machine is out of memory; the rest is cut by the look of its lines.
MAX_DEATHS = 5

LANGUAGES = {
    "py": "python", "pyi": "python", "pyw": "python",
    "js": "javascript", "mjs": "javascript", "cjs": "javascript", "jsx": "javascript",
    "ts": "typescript", "mts": "typescript", "cts": "typescript", "tsx": "tsx",
    "go": "go", "rs": "rust", "java": "java", "kt": "kotlin", "kts": "kotlin", "scala": "scala", "swift": "swift",
    "c": "c", "h": "c", "cc": "cpp", "cpp": "cpp", "cxx": "cpp", "hh": "cpp", "hpp": "cpp", "cs": "csharp",
    "rb": "ruby", "php": "php", "lua": "lua", "pl": "perl", "r": "r", "jl": "julia", "dart": "dart", "zig": "zig",
    "ex": "elixir", "exs": "elixir", "erl": "erlang", "hs": "haskell", "ml": "ocaml", "clj": "clojure",
    "sh": "bash", "bash": "bash", "sql": "sql", "proto": "proto", "tf": "hcl", "hcl": "hcl",
    "vue": "vue", "svelte": "svelte",
}  # fmt: skip


def language_of(path: str) -> str | None:
    """The language that a file's name tells, as tree-sitter calls it; None if it has no syntax that we know."""
    return LANGUAGES.get(PurePosixPath(path).suffix.removeprefix(".").lower())


class Parser:
    """A child process that parses one file after the other; not for use by several threads at once."""

    def __init__(self) -> None:
        """The child is started with the first file that needs it."""
        self._child: subprocess.Popen[str] | None = None
        self._deaths = 0

    def __enter__(self) -> Self:
        """The parser itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self._end()

    def outline(self, path: str, text: str) -> Outline | None:
        """The outline of a file; None where it has none, or none that is found in time: then look at its lines."""
        language = language_of(path)
        if language is None or self._deaths >= MAX_DEATHS:
            return None
        try:
            child = self._started()
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps({"language": language, "text": text}) + "\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline())
        except (OSError, ValueError):
            # It took too long, or too much memory, and has ended itself.
            self._deaths += 1
            self._end()
            return None
        if answer is None:
            return None
        return Outline(
            definitions=[(first, last) for first, last in answer["definitions"]],
            statements=[(line, depth) for line, depth in answer["statements"]],
        )

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="ascii",
            )
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        child.wait()
