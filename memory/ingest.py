"""Remembers the text files of a workspace in passages, and keeps them as the files are now.

What is known of a file lies in its passages: the hash of the content they were cut from, and how many they are. So a
file that has not changed is neither cut nor embedded again, an ingest that was killed goes on where it was, and whoever
forgets a source has it read again.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from chargehand.memory.beliefs import MemoryItem, write
from chargehand.memory.file_records import CUTTER, FileRecord, Library, mark_content, read_records, replace
from chargehand.memory.parsing import Parser
from chargehand.memory.passages import cut
from chargehand.memory.procedural import git_blob_hash
from chargehand.memory.text_files import Listed, choose, lines_to_cut

# One transaction embeds this many; it must end well within `idle_in_transaction_session_timeout`.
BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """How far an ingest is, or what it came to."""

    listed: int
    """Files there are."""
    seen: int = 0
    """Files looked at until now."""
    files: int = 0
    """Files with at least one passage."""
    passages: int = 0
    """Passages of those files, old and new."""
    embedded: int = 0
    """Those that are found by their meaning too, not only by their words."""
    unchanged: int = 0
    """Files that were known as they are: neither cut nor embedded."""
    retired: int = 0
    """Passages that are not found any more, because their file has changed or is gone."""
    removed: int = 0
    """Files that are gone."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Number of files left out, by reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Passages of one file that are written together."""

    source: str
    items: Sequence[MemoryItem]
    replaces: Sequence[MemoryItem] | None
    """All passages of the file, in its first part: what else is known of it is old. None in the other parts."""


def ingest(
    library: Library,
    listing: Sequence[Listed],
    read: Callable[[Sequence[Listed]], Iterable[tuple[Listed, bytes | None]]],
    *,
    owned: str | None = None,
    details: Mapping[str, JsonValue] | None = None,
    max_passages: int | None = None,
    max_embedding_seconds: float | None = None,
    progress: Callable[[Ingested], None] = lambda _: None,
) -> Ingested:
    """Remember the files of `listing` as they are now, and give what was done.

    `read` gives the content of the files it is asked for (None: it could not be read); only some are in memory at a
    time. `owned`: with what the sources begin that the listing is all of; others of them are gone and are forgotten,
    with what was concluded from them. None: nothing is gone. `details` go with each passage. What lies beyond
    `max_passages` is left out, what is met after `max_embedding_seconds` is found by its words only; tests come last,
    they are what is missed least. `progress` hears what was done until now, after each transaction.

    May be broken off anywhere and started again.
    """
    wanted, skipped = choose(listing)
    with library.open_session() as session:
        known = read_records(session, library, {file.source for file in wanted}, owned)
    work = _Work(library, known, len(listing), skipped, max_embedding_seconds, progress)
    work.tally["seen"] = len(listing) - len(wanted)
    if owned is not None:
        work.forget(sorted(known.keys() - {file.source for file in wanted}))
    unread = [file for file in wanted if not work.is_unchanged(file.source, file.blob)]
    with Parser() as parser:
        for file, content in read(unread):
            blob = None if content is None else file.blob or git_blob_hash(content)
            if file.blob is None and work.is_unchanged(file.source, blob):
                continue
            room = None if max_passages is None else max_passages - work.tally["passages"]
            lines, reason = ([], "unreadable") if content is None else lines_to_cut(content)
            if content is None or (reason is None and room == 0):
                work.leave_out(reason or "index full")
                continue
            if reason is not None:
                skipped[reason] += 1
            passages = cut(file.source, lines, parser.outline(file.source, "\n".join(lines)))[:room]
            mark = {**(details or {}), "blob": blob, "of": len(passages), "cutter": CUTTER}
            work.take(
                file.source,
                [
                    MemoryItem(
                        source=file.source,
                        line_start=passage.line_start,
                        line_end=passage.line_end,
                        text=passage.text,
                        details=mark,
                    )
                    for passage in passages
                ],
            )
    work.flush()
    return work.report()


class _Work:
    """One ingest while it lasts: what is counted, and what waits for the next transaction."""

    def __init__(
        self,
        library: Library,
        known: Mapping[str, FileRecord],
        listed: int,
        skipped: Counter[str],
        max_embedding_seconds: float | None,
        progress: Callable[[Ingested], None],
    ) -> None:
        self.tally = Counter[str]()
        self._library, self._known, self._listed, self._skipped = library, known, listed, skipped
        self._embeds_until = None if max_embedding_seconds is None else time.monotonic() + max_embedding_seconds
        self._progress = progress
        self._parts: list[_Part] = []
        self._waiting = 0

    def report(self) -> Ingested:
        """What was done until now."""
        return Ingested(listed=self._listed, skipped=dict(sorted(self._skipped.items())), **self.tally)

    def is_unchanged(self, source: str, blob: str | None) -> bool:
        """Whether this is the content that is known; then the file is done."""
        known = self._known.get(source)
        if known is None or blob is None or known.blob != blob:
            return False
        if self._library.embedder is not None and known.embedded < known.passages:
            return False
        self.tally.update(seen=1, unchanged=1, files=1, passages=known.passages, embedded=known.embedded)
        self._progress(self.report())
        return True

    def leave_out(self, reason: str) -> None:
        """Count a file that is not read; what is known of it stays."""
        self._skipped[reason] += 1
        self.tally["seen"] += 1

    def take(self, source: str, items: Sequence[MemoryItem]) -> None:
        """Write these passages instead of what is known of the file, together with those of others."""
        self.tally.update(seen=1, files=bool(items), passages=len(items))
        replaces: Sequence[MemoryItem] | None = items if source in self._known else None
        for start in range(0, max(len(items), 1), BATCH):
            part = items[start : start + BATCH]
            if self._waiting + len(part) > BATCH:
                self.flush()
            if part or replaces is not None:
                self._parts.append(_Part(source=source, items=part, replaces=replaces))
            self._waiting += len(part)
            replaces = None

    def flush(self) -> None:
        """Write what waits, in one transaction."""
        if self._parts:
            in_time = self._embeds_until is None or time.monotonic() < self._embeds_until
            embedder = self._library.embedder if in_time else None
            items = [item for part in self._parts for item in part.items]
            with self._library.open_session() as session:
                ids = write(
                    session,
                    tenant=self._library.tenant,
                    scope=self._library.scope,
                    items=items,
                    embedder=embedder,
                    guard=None,
                    revive=True,
                )
                for part in self._parts:
                    if part.replaces is not None:
                        self.tally["retired"] += replace(session, self._library, part.source, part.replaces)
                if any(part.source in self._known for part in self._parts):
                    mark_content(session, self._library, dict(zip(ids, items, strict=True)))
            if embedder is not None:
                self.tally["embedded"] += len(items)
        self._parts, self._waiting = [], 0
        self._progress(self.report())

    def forget(self, sources: Sequence[str]) -> None:
        """Forget what was read in files that are gone."""
        for start in range(0, len(sources), BATCH):
            some = sources[start : start + BATCH]
            with self._library.open_session() as session:
                retired = sum(replace(session, self._library, source, ()) for source in some)
            self.tally.update(retired=retired, removed=len(some))
            self._progress(self.report())
