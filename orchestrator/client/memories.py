"""What a program does with memory: `client.memory.add("docs/")`, `client.memory.search("When is the desk open?")`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine

from chargehand.memory.beliefs import LIBRARY, MemoryItem, Provenance, remember
from chargehand.memory.embedder import Embedder, load_embedder
from chargehand.memory.file_records import Library, OpenSession, roots_of
from chargehand.memory.folder import open_folder
from chargehand.memory.forgetting import Forgotten, forget
from chargehand.memory.holdings import Holding, holdings, sources_below
from chargehand.memory.ingest import Ingested, ingest
from chargehand.memory.pathnames import shown
from chargehand.memory.reindexing import Reindexed, count_of_others, reindex
from chargehand.memory.semantic import Recalled, recall
from chargehand.orchestrator.errors import NotFound, UserError

# More is no note; a file is cut into passages.
MAX_NOTE_CHARACTERS = 8_000
# More is no answer to a question, and each of them is looked at.
MAX_LIMIT = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class ToEmbed:
    """What a change of the embedding model has left to do."""

    model_id: str
    """The model that the settings choose."""
    memories: int


class Memories:
    """What one tenant remembers."""

    def __init__(
        self,
        open_session: OpenSession,
        tenant: UUID,
        *,
        engine: Engine,
        embedder: Callable[[], Embedder] = load_embedder,
    ) -> None:
        """`open_session`: transactions bound to the tenant."""
        self._session, self._tenant, self._engine, self._embedder = open_session, tenant, engine, embedder

    def add(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        scope: str = LIBRARY,
        progress: Callable[[Ingested], None] = lambda _: None,
    ) -> Ingested:
        """Remember the text files of a folder, or one file, as they are now.

        Done again it reads what has changed, and forgets what is gone. Sources are called `NAME/path`, after the folder
        unless `name` is given. Raises `UserError` when there is nothing to read, or when another folder is known by
        that name.
        """
        try:
            folder = open_folder(Path(path), name=name)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise UserError(f"{shown(str(path))} cannot be read ({why}); give a folder or a file.") from error
        except ValueError as error:
            raise UserError(str(error)) from error
        library = Library(
            open_session=self._session, tenant=self._tenant, scope=check_scope(scope), embedder=self._embedder()
        )
        root = shown(str(folder.root))
        if folder.owned is not None:
            with self._session() as session:
                others = roots_of(session, library, folder.owned) - {root}
            if others:
                known = folder.owned.rstrip("/")
                raise UserError(
                    f"{known!r} is what was read in {min(others)}; give {root} another name, or forget the other first."
                )
        return ingest(
            library,
            folder.listing,
            folder.read,
            owned=folder.owned,
            details={"root": root},
            progress=progress,
        )

    def note(self, text: str, *, source: str, scope: str = LIBRARY) -> UUID:
        """Remember a sentence or a page that somebody has written; raises `UserError` for an empty or a long one."""
        text = text.replace("\0", " ").strip()
        if not text or len(text) > MAX_NOTE_CHARACTERS:
            raise UserError(
                f"A note has 1 to {MAX_NOTE_CHARACTERS} characters, this one {len(text)}; write another, or add a file."
            )
        if not source.strip():
            raise UserError("The note has no source; say where it is from, so that it can be forgotten again.")
        item = MemoryItem(
            source=source.strip(),
            line_start=1,
            line_end=text.count("\n") + 1,
            text=text,
            kind="note",
            trust="person",
            provenance=Provenance(tool="note"),
        )
        with self._session() as session:
            (made,) = remember(
                session, tenant=self._tenant, scope=check_scope(scope), items=[item], embedder=self._embedder()
            )
        return made

    def search(
        self,
        query: str,
        *,
        scope: str = LIBRARY,
        kinds: Sequence[str] | None = None,
        limit: int = 8,
        as_of: datetime | None = None,
    ) -> tuple[Recalled, ...]:
        """What answers the query best, best first: always the nearest, however far, see `recall`.

        `as_of`: what was believed at that moment (with a time zone).
        """
        if as_of is not None and as_of.tzinfo is None:
            raise UserError(f"as_of is {as_of.isoformat()}, which is no moment; give it a time zone.")
        if not query.strip():
            raise UserError("The query is empty; write what you look for, in words or as a question.")
        if not 1 <= limit <= MAX_LIMIT:
            raise UserError(f"limit is {limit}; ask for 1 to {MAX_LIMIT} memories.")
        with self._session() as session:
            return recall(
                session,
                tenant=self._tenant,
                scope=check_scope(scope),
                query=query,
                embedder=self._embedder(),
                kinds=kinds,
                limit=limit,
                as_of=as_of,
            )

    def forget(
        self,
        source: str | None = None,
        *,
        scope: str | None = None,
        memories: Collection[UUID] = (),
        runs: Collection[UUID] = (),
    ) -> Forgotten:
        """Delete what was read in a source, some memories, or what came of runs, and all that was concluded from them.

        A source that ends with `/` stands for all that begin so; `scope` limits it to one scope. Memories that one of
        them had superseded are believed again. Raises `NotFound` when there is nothing to forget.
        """
        if (source is None) == (not memories and not runs):
            raise UserError("Name what is to be forgotten: either a source, or memories or runs.")
        with self._session() as session:
            sources: tuple[str | None, ...] = (source,)
            if source is not None and source.endswith("/"):
                sources = sources_below(session, tenant=self._tenant, beginning=source, scope=scope)
            each = [
                forget(session, tenant=self._tenant, source=one, scope=scope, memories=memories, runs=runs)
                for one in sources
            ]
        gone = {memory for one in each for memory in one.memories}
        if not gone:
            raise NotFound(_nothing(source, scope))
        again = {memory for one in each for memory in one.believed_again} - gone
        return Forgotten(memories=tuple(sorted(gone)), believed_again=tuple(sorted(again)))

    def reindex(
        self, *, keep_others: bool = False, progress: Callable[[Reindexed], None] = lambda _: None
    ) -> Reindexed:
        """Give every memory a vector of the model that the settings choose, then drop those of others, see `reindex`.

        May be stopped and started again. In large scopes searches want the model's index first, see `vector_indexes`.
        """
        return reindex(
            self._engine, tenant=self._tenant, embedder=self._embedder(), keep_others=keep_others, told=progress
        )

    def stats(self) -> tuple[Holding, ...]:
        """How much is remembered, by scope."""
        with self._session() as session:
            return holdings(session, tenant=self._tenant)

    def to_embed(self) -> ToEmbed:
        """How many memories have a vector of another model and none of the one that the settings choose.

        While there are any, searches of their scopes are refused; research workers embed them in the background.
        """
        model_id = self._embedder().model_id
        return ToEmbed(
            model_id=model_id, memories=count_of_others(self._engine, tenant=self._tenant, model_id=model_id)
        )


def check_scope(scope: str) -> str:
    """The scope, if it is one; raises `UserError`."""
    if not scope.strip():
        raise UserError(f"Scope {scope!r} is empty; name one, for example {LIBRARY!r}.")
    return scope.strip()


def _nothing(source: str | None, scope: str | None) -> str:
    if source is None:
        return "Nothing is remembered of these; `chargehand memory search --json` shows ids of memories and runs."
    where = f"in scope {scope!r}" if scope is not None else "in any scope"
    return f"Nothing was read in {source!r} {where}; `chargehand memory search` shows sources."
