"""The tool that researchers ask: passages of the workspace with place and line numbers, and what is believed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy.orm import Session

from chargehand.memory.beliefs import LIBRARY
from chargehand.memory.embedder import Embedder
from chargehand.memory.model_check import MixedModels
from chargehand.memory.semantic import Recalled, is_known, recall

# What one call may put into a model's window, about 3,000 tokens.
MAX_CHARACTERS = 12_000
DEFAULT_LIMIT = 6
MAX_LIMIT = 20
# What earlier runs taught comes first and is short; farther ones are of something else.
MAX_BELIEFS = 3
NEAR = 0.4
# To the model that asked; the embedding goes on while it works.
BY_WORDS = (
    "[Found by its words only: the embedding model was changed, and what is remembered is being embedded anew. Ask "
    "with words that the text itself would use, use search_text, or ask again some minutes later.]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecalledText:
    """What a model is shown, and what that was, for the journal."""

    text: str
    memory_ids: tuple[UUID, ...]
    """The memories that are in `text`; a memory never changes, so an id is a version."""
    by_words_only: bool = False
    """Meanings could not be compared: what is remembered has vectors of another model."""


def recall_passages(
    session: Session, *, tenant: UUID, scope: str, query: str, embedder: Embedder, limit: int = DEFAULT_LIMIT
) -> RecalledText:
    """The passages that answer `query` best, best first, and what earlier runs taught; see `show_passages`.

    Where vectors of two models would be compared it looks for words only, and says so.
    """
    most = min(max(limit, 1), MAX_LIMIT)
    passages, refused = _recall(session, tenant=tenant, scope=scope, query=query, embedder=embedder, limit=most)
    beliefs: Sequence[Recalled] = ()
    if is_known(session, tenant=tenant, scope=LIBRARY):
        found, also_refused = _recall(
            session, tenant=tenant, scope=LIBRARY, query=query, embedder=embedder, limit=MAX_BELIEFS
        )
        refused = refused or also_refused
        beliefs = [one for one in found if one.lexical_score > 0 or (one.similarity or 0.0) >= NEAR]
    shown = show_passages([*beliefs, *passages])
    return replace(shown, text=f"{BY_WORDS}\n\n{shown.text}", by_words_only=True) if refused else shown


def _recall(
    session: Session, *, tenant: UUID, scope: str, query: str, embedder: Embedder, limit: int
) -> tuple[Sequence[Recalled], bool]:
    """What answers best, and whether meanings could not be compared, because the scope has vectors of another model."""
    try:
        return recall(session, tenant=tenant, scope=scope, query=query, embedder=embedder, limit=limit), False
    except MixedModels:
        found = recall(session, tenant=tenant, scope=scope, query=query, embedder=None, limit=limit)
        return [one for one in found if one.lexical_score > 0], True


def show_passages(passages: Sequence[Recalled]) -> RecalledText:
    """Each passage as `path:first-last` above its numbered lines (`12: text`), a blank line between them.

    What is no passage stands below a line that says whose word it is.

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
    """One passage with its place and numbered lines; of another memory who says it, and its words."""
    if passage.kind != "passage":
        return f"{witness(passage)}\n{passage.text}"
    lines = passage.text.split("\n")
    numbered = [f"{number}: {line}" for number, line in enumerate(lines, start=passage.line_start)]
    return "\n".join([place(passage), *numbered])


def place(passage: Recalled) -> str:
    """`path:first-last`; of what is no passage its id."""
    if passage.kind != "passage":
        return f"memory {passage.memory_id}"
    return f"{passage.source}:{passage.line_start}-{passage.line_end}"


def witness(memory: Recalled) -> str:
    """Which memory it is, how far it is trusted, since when it is known, and which run, tool and role it comes from."""
    known = [f"memory {memory.memory_id}", memory.kind, f"trust: {memory.trust}"]
    if memory.created_at is not None:
        known.append(f"since {memory.created_at:%Y-%m-%d}")
    if memory.run_id is not None:
        by = f" by {memory.tool}" if memory.tool else ""
        role = f" at role version {memory.role_version[:12]}" if memory.role_version else ""
        role += f" (commit {memory.role_commit[:12]})" if memory.role_commit else ""
        known.append(f"run {memory.run_id}{by}{role}")
    return f"[{'; '.join(known)}]"
