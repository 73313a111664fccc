"""A patch, line by line, as people read it; pure."""

from dataclasses import dataclass

# Of one patch; the whole of it can be downloaded.
MOST_LINES = 4_000
_HEADERS = (
    "diff ",
    "index ",
    "--- ",
    "+++ ",
    "new file",
    "deleted file",
    "similarity ",
    "rename ",
    "old mode",
    "new mode",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchLine:
    """One line, and what it is."""

    kind: str
    """`file`, `place`, `added`, `removed` or `same`."""
    text: str


def lines_of(patch: str) -> list[PatchLine]:
    """The lines of a unified diff, at most `MOST_LINES`."""
    shown = patch.splitlines()[:MOST_LINES]
    return [PatchLine(kind=kind_of(line), text=line) for line in shown]


def kind_of(line: str) -> str:
    """What a line of a unified diff is."""
    if line.startswith(_HEADERS):
        return "file"
    if line.startswith("@@"):
        return "place"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")
