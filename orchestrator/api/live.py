"""Live feeds: every run that somebody watches is read once, however many watch it.

A reader registers first and then reads what there is, so that nothing falls between; what comes twice is dropped by its
position. One that is too slow for its queue reads on from the journal, from its own position.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

import anyio
import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError

from chargehand.orchestrator import feed
from chargehand.orchestrator.api.hearing import Hearing
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.errors import NotFound, Unavailable
from chargehand.orchestrator.feed import PAGE_ROWS, Position, Shown
from chargehand.orchestrator.gist import gist
from chargehand.orchestrator.hints import CROWD_SECONDS, LOOK_SECONDS

log = logging.getLogger(__name__)

T = TypeVar("T")

# Batches that a reader may be behind before it reads from the journal again.
QUEUED_BATCHES = 64
# Less than what proxies allow a silent connection.
PING_SECONDS = 15.0
# Threads that read journals: feeds must not take all connections of the process from those who ask.
READING_THREADS = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A fact as it is sent, all but its id."""

    place: int
    seq: int
    kind: str
    document: str
    """JSON, on one line."""


@dataclass(eq=False, slots=True)
class Feed:
    """A run that somebody watches."""

    tenant: UUID
    run_id: UUID
    position: Position
    """What its readers were given."""
    readers: set["Reader"] = field(default_factory=set)
    reading: bool = False
    again: bool = False
    """Something was heard while it was read."""


class Live:
    """The feeds of one process; all of it runs in the event loop's thread, but for the reading."""

    def __init__(self, services: Services, *, look_seconds: float = LOOK_SECONDS) -> None:
        """Nothing is watched yet; `look_seconds`: how often is looked without being told."""
        self._services = services
        self._look_seconds = look_seconds
        self._feeds: dict[tuple[UUID, UUID], Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hearing: Hearing | None = None
        self._threads = anyio.CapacityLimiter(READING_THREADS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closing = False

    async def start(self) -> None:
        """Begin to listen and to look."""
        self._loop = asyncio.get_running_loop()
        try:
            client = self._services.redis()
        except Unavailable:
            client = None
        if client is not None:
            prefix = self._services.settings.key_prefix
            self._hearing = Hearing(client, key_prefix=prefix, heard=self._heard)
            self._hearing.start()
        self._spawn(self._look_for_ever())

    async def stop(self) -> None:
        """End every stream; readers resume elsewhere from where they were."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._hearing is not None:
            await anyio.to_thread.run_sync(self._hearing.stop)

    def close_soon(self) -> None:
        """As `close`, from wherever; a signal's handler may call it."""
        self.closing = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.close)

    def close(self) -> None:
        """Let every reader end now."""
        self.closing = True
        for one in self._feeds.values():
            for reader in one.readers:
                reader.wake()

    async def events(
        self,
        tenant: UUID,
        run_id: UUID,
        position: Position,
        *,
        follow: bool,
        longest_seconds: float,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> AsyncIterator[str]:
        """A server-sent event for each fact behind the position, until the run has ended.

        `follow`: False ends with what there is now. After `longest_seconds` the stream ends, and the reader resumes.
        `may_go_on` is asked in a thread, every `PING_SECONDS`: whether the reader may still see the run.
        """
        loop = asyncio.get_running_loop()
        deadline, asked_again = loop.time() + longest_seconds, loop.time() + PING_SECONDS
        if not follow:
            reader = Reader(self, tenant, run_id, position)
            async for said in reader.catch_up():
                yield said
            return
        one = await self._join(tenant, run_id)
        with _reading(one, Reader(self, tenant, run_id, position)) as reader:
            self._hear()
            try:
                async for said in reader.follow(deadline):
                    # Something is said at least as often, be it that nothing is new.
                    if loop.time() >= asked_again:
                        if not await self.in_thread(may_go_on):
                            return
                        asked_again = loop.time() + PING_SECONDS
                    yield said
            finally:
                one.readers.discard(reader)
                if not one.readers:
                    self._feeds.pop((tenant, run_id), None)
                    self._hear()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Read something from Postgres, outside of the loop."""
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    def page(self, tenant: UUID, position: Position) -> tuple[bool, list[Frame]]:
        """Whether the run had ended before, and what is behind the position; in a thread."""
        with self._services.session(tenant) as session:
            ended = feed.has_ended(session, position.run_id)
            rows = feed.read_on(session, position)
        return ended, [_frame(row) for row in rows]

    async def _join(self, tenant: UUID, run_id: UUID) -> Feed:
        one = self._feeds.get((tenant, run_id))
        if one is None:

            def heads() -> Position:
                with self._services.session(tenant) as session:
                    return feed.newest(session, run_id)

            position = await self.in_thread(heads)
            # Somebody else may have been quicker; then theirs is the feed.
            one = self._feeds.setdefault((tenant, run_id), Feed(tenant, run_id, position))
        return one

    def _hear(self) -> None:
        if self._hearing is not None:
            self._hearing.watch({run_id for _, run_id in self._feeds})

    def _heard(self, run_id: UUID) -> None:
        """In the hearing thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, run_id)

    def _wake(self, run_id: UUID) -> None:
        for one in list(self._feeds.values()):
            if one.run_id == run_id:
                self._read_soon(one, CROWD_SECONDS)

    def _read_soon(self, one: Feed, after_seconds: float) -> None:
        if one.reading:
            one.again = True
            return
        one.reading = True
        self._spawn(self._read(one, after_seconds))

    async def _read(self, one: Feed, after_seconds: float) -> None:
        """Give the feed's readers what is new; one at a time for each feed."""
        try:
            await asyncio.sleep(after_seconds)
            while one.readers:
                one.again = False
                ended, frames = await self.in_thread(lambda: self.page(one.tenant, one.position))
                for frame in frames:
                    one.position.pass_by(frame.place, frame.seq)
                for reader in one.readers:
                    if frames:
                        reader.offer(frames)
                    if ended and not frames:
                        reader.wake()
                if len(frames) < PAGE_ROWS and not one.again:
                    return
        except (Unavailable, NotFound, SQLAlchemyError) as error:
            log.warning("feed not read", extra={"run_id": str(one.run_id), "error": str(error)})
        finally:
            one.reading = False

    async def _look_for_ever(self) -> None:
        """What was not hinted at: one query a tenant tells which runs have something new."""
        while True:
            await asyncio.sleep(self._look_seconds)
            by_tenant: dict[UUID, list[Feed]] = {}
            for one in self._feeds.values():
                by_tenant.setdefault(one.tenant, []).append(one)
            for tenant, feeds in by_tenant.items():
                try:
                    await self._look(tenant, feeds)
                except (Unavailable, SQLAlchemyError) as error:
                    # Whatever it was, who watches must not wait for ever.
                    log.warning("feeds not looked at", extra={"error": str(error)})

    async def _look(self, tenant: UUID, feeds: Sequence[Feed]) -> None:
        def look() -> dict[UUID, tuple[bool, int]]:
            with self._services.session(tenant) as session:
                return feed.grown(session, [one.run_id for one in feeds])

        found = await self.in_thread(look)
        for one in feeds:
            ended, rows = found.get(one.run_id, (True, 0))
            if ended or rows > one.position.rows:
                self._read_soon(one, 0.0)

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextmanager
def _reading(one: Feed, reader: "Reader") -> Iterator["Reader"]:
    one.readers.add(reader)
    try:
        yield reader
    finally:
        one.readers.discard(reader)


class Reader:
    """Whoever watches a run, and how far it was shown to them."""

    def __init__(self, live: Live, tenant: UUID, run_id: UUID, position: Position) -> None:
        """It has seen everything up to the position."""
        self._live, self._tenant, self._run_id = live, tenant, run_id
        self._position = position
        self._queue: asyncio.Queue[Sequence[Frame] | None] = asyncio.Queue(QUEUED_BATCHES)
        self._behind = True
        self.ended = False

    def offer(self, frames: Sequence[Frame]) -> None:
        """What is new; a reader whose queue is full will read it from the journal."""
        try:
            self._queue.put_nowait(frames)
        except asyncio.QueueFull:
            self._behind = True

    def wake(self) -> None:
        """The run has ended, or the process: look again."""
        self._behind = True
        if self._queue.empty():
            self._queue.put_nowait(None)

    async def catch_up(self) -> AsyncIterator[str]:
        """What the journal has behind the position."""
        while True:
            self._behind = False
            ended, frames = await self._live.in_thread(lambda: self._live.page(self._tenant, self._position))
            for frame in frames:
                yield self._said(frame)
            if len(frames) < PAGE_ROWS:
                # What an ended run still writes comes before its end is seen with nothing new.
                self.ended = ended and not frames
                if ended and frames:
                    continue
                return

    async def follow(self, deadline: float) -> AsyncIterator[str]:
        """Everything, until the run has ended, the time is up or the process stops."""
        loop = asyncio.get_running_loop()
        yield ": chargehand\n\n"
        while not self._live.closing:
            while not self._queue.empty():
                # All of it is in the journal.
                self._queue.get_nowait()
            async for said in self.catch_up():
                yield said
            if self.ended:
                yield "event: end\ndata: {}\n\n"
                return
            while not self._behind:
                rest_seconds = deadline - loop.time()
                if rest_seconds <= 0:
                    return
                try:
                    async with asyncio.timeout(min(PING_SECONDS, rest_seconds)):
                        frames = await self._queue.get()
                except TimeoutError:
                    if loop.time() < deadline:
                        yield ": still here\n\n"
                    continue
                for frame in frames or ():
                    if not self._position.has_shown(frame.place, frame.seq):
                        yield self._said(frame)

    def _said(self, frame: Frame) -> str:
        self._position.pass_by(frame.place, frame.seq)
        return f"id: {self._position}\nevent: {frame.kind}\ndata: {frame.document}\n\n"


def _frame(row: Shown) -> Frame:
    event = row.event
    document = {
        "run_id": str(event.run_id),
        "step_id": None if event.step_id is None else str(event.step_id),
        "step": row.step_key,
        "seq": event.seq,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "gist": "(erased)" if event.fact is None else gist(event.fact),
        "fact": None if event.fact is None else event.fact.model_dump(mode="json"),
    }
    return Frame(place=row.place, seq=event.seq, kind=event.kind, document=json.dumps(document, ensure_ascii=True))
