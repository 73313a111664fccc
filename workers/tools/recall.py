"""The tool that researchers ask: passages of the workspace, shown with their place and line numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from chargehand.memory.embedder import Embedder
from chargehand.memory.semantic import Recalled, recall

# What one call may put into a model's window, about 3,000 tokens.
MAX_CHARACTERS = 12_000
DEFAULT_LIMIT = 6
MAX_LIMIT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RecalledText:
    """What a model is shown, and what that was, for the journal."""

    text: str
    memory_ids: tuple[UUID, ...]
    """The memories that are in `text`; a memory never changes, so an id is a version."""


def recall_passages(
    session: Session, *, tenant: UUID, scope: str, query: str, embedder: Embedder, limit: int = DEFAULT_LIMIT
) -> RecalledText:
    """The passages that answer `query` best, best first, ready to be shown; see `show_passages`."""
    passages = recall(
        session, tenant=tenant, scope=scope, query=query, embedder=embedder, limit=min(max(limit, 1), MAX_LIMIT)
    )
    return show_passages(passages)


def show_passages(passages: Sequence[Recalled]) -> RecalledText:
    """Each passage as `path:first-last` above its numbered lines (`12: text`), a blank line between them.

    A quote is the text after the number and `: `. Passages that do not fit are left out whole, and named.
    """
    if not passages:
        return RecalledText(text="Nothing was found.", memory_ids=())
    shown: list[str] = []
    left_out: list[str] = []
    ids: list[UUID] = []
    room = MAX_CHARACTERS
    for passage in passages:
        block = show_passage(passage)
        if shown and len(block) > room:
            left_out.append(place(passage))
            continue
        shown.append(block)
        ids.append(passage.memory_id)
        room -= len(block)
    if left_out:
        shown.append("Also found, not shown: " + ", ".join(left_out))
    return RecalledText(text="\n\n".join(shown), memory_ids=tuple(ids))


def show_passage(passage: Recalled) -> str:
    """One passage with its place and numbered lines."""
    lines = passage.text.split("\n")
    numbered = [f"{number}: {line}" for number, line in enumerate(lines, start=passage.line_start)]
    return "\n".join([place(passage), *numbered])


def place(passage: Recalled) -> str:
    """`path:first-last`."""
    return f"{passage.source}:{passage.line_start}-{passage.line_end}"
