"""Ways from processes to their services that can be cut, delayed, half closed, silenced, or robbed of a COMMIT's reply.

An asyncio proxy in a thread of its own, for Unix sockets and TCP. Each process has a link of its own to each service,
so that one worker can be cut off while its neighbours see nothing.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from chaos.commits import CommitWatch

Address = Path | tuple[str, int]
"""A Unix socket, or host and port."""
T = TypeVar("T")

CHUNK_BYTES = 65_536
# More connections than this at once are a storm of their own.
BACKLOG = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class LostReply:
    """A commit whose reply was swallowed."""

    link: str
    at: float
    statement: str


@dataclass(kw_only=True, eq=False, slots=True)
class _Connection:
    """A client and its server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    watch: CommitWatch | None = None
    deaf: bool = False
    """What either side says is dropped from now on; both sockets stay open."""
    held: bytearray = field(default_factory=bytearray)
    """The beginning of an answer that may have to be swallowed."""

    def abort(self) -> None:
        """End both sides at once; what was on its way is lost."""
        for writer in (self.client, self.server):
            if writer is not None:
                writer.transport.abort()


class Link:
    """One way from one process to one service; a fault strikes all its connections. Made by `Network.link`."""

    def __init__(self, network: "Network", name: str, upstream: Address, *, is_postgres: bool) -> None:
        """Nothing listens yet."""
        self.name = name
        self.lost: list[LostReply] = []
        self._network, self._upstream, self._is_postgres = network, upstream, is_postgres
        self._connections: set[_Connection] = set()
        self._delay_seconds = 0.0
        self._silent = False
        self._replies_to_lose = 0

    # --- faults, from any thread --------------------------------------------------------------------------------------

    def cut(self) -> int:
        """End every connection; gives how many there were."""
        return self._network.on_loop(self._cut)

    def delay(self, seconds: float) -> None:
        """Let everything take this much longer, in each direction."""
        self._network.on_loop(lambda: setattr(self, "_delay_seconds", seconds))

    def half_close(self) -> int:
        """End the server's side of every connection and tell the client nothing; gives how many there were."""
        return self._network.on_loop(self._half_close)

    def silence(self) -> None:
        """Let nothing through and tell nobody: a black hole, also for new connections."""
        self._network.on_loop(self._silence)

    def lose_replies(self, times: int = 1) -> None:
        """Swallow the server's answers to the next commits, each with the end of its connection."""
        self._network.on_loop(lambda: setattr(self, "_replies_to_lose", times))

    def heal(self) -> None:
        """Be an ordinary wire again; connections that have lost something end."""
        self._network.on_loop(self._heal)

    def _cut(self) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        return len(connections)

    def _half_close(self) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.deaf = True
            if connection.server is not None:
                connection.server.close()
        return len(connections)

    def _silence(self) -> None:
        self._silent = True
        for connection in self._connections:
            connection.deaf = True

    def _heal(self) -> None:
        self._silent, self._delay_seconds, self._replies_to_lose = False, 0.0, 0
        for connection in list(self._connections):
            if connection.deaf:
                connection.abort()

    # --- the wire -----------------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one of its sides ends."""
        connection = _Connection(client=writer, watch=CommitWatch() if self._is_postgres else None, deaf=self._silent)
        self._connections.add(connection)
        try:
            if connection.deaf:
                await self._out(connection, reader)
                return
            answers, connection.server = await _connect(self._upstream)
            pumps = [
                asyncio.create_task(pump) for pump in (self._out(connection, reader), self._back(connection, answers))
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        except OSError:
            # Nobody listens there: the client sees what it would see without us.
            connection.abort()
        finally:
            self._connections.discard(connection)
            for side in (connection.client, connection.server):
                if side is not None:
                    side.close()

    async def _out(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._travel()
                if connection.deaf or connection.server is None:
                    continue
                if connection.watch is not None:
                    connection.watch.client_said(data)
                connection.server.write(data)
                await connection.server.drain()

    async def _back(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._travel()
                if connection.deaf:
                    continue
                if connection.watch is not None:
                    data = self._robbed(connection, connection.watch, data)
                connection.client.write(data)
                await connection.client.drain()
        # Who was not told that the other side has gone goes on waiting.
        while connection.deaf:
            await asyncio.sleep(3600)

    async def _travel(self) -> None:
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)

    def _robbed(self, connection: _Connection, watch: CommitWatch, data: bytes) -> bytes:
        """What the client may hear of this."""
        heard = bytearray()
        for answer in watch.server_said(data):
            if self._replies_to_lose and answer.committed:
                self._replies_to_lose -= 1
                statement = " ".join(answer.committed.decode(errors="replace").split())
                self.lost.append(LostReply(link=self.name, at=time.time(), statement=statement))
                connection.abort()
                return bytes(heard)
            connection.held += answer.data
            # The end of a batch decides what becomes of its beginning.
            if answer.ends_batch or not (self._replies_to_lose and watch.writes):
                heard += connection.held
                connection.held.clear()
        return bytes(heard)


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address)


@dataclass(kw_only=True)
class Network:
    """All links of a machine, served by one thread while the block runs."""

    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _links: list[Link] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End every connection, and all tasks with them."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def link(self, name: str, upstream: Address, *, listen: Address, is_postgres: bool = False) -> Link:
        """A new way to `upstream`; port 0 listens on any free one, see `port_of`."""
        link = Link(self, name, upstream, is_postgres=is_postgres)
        self._wait(self._listen(link, listen))
        self._links.append(link)
        return link

    def port_of(self, link: Link) -> int:
        """The TCP port of a link."""
        port: int = self._servers[self._links.index(link)].sockets[0].getsockname()[1]
        return port

    def on_loop(self, act: Callable[[], T]) -> T:
        """Run something between two events of the loop, and give what it gives."""

        async def acted() -> T:
            return act()

        return self._wait(acted())

    async def _listen(self, link: Link, listen: Address) -> None:
        if isinstance(listen, Path):
            listen.parent.mkdir(parents=True, exist_ok=True)
            server = await asyncio.start_unix_server(link.serve, listen, backlog=BACKLOG)
        else:
            server = await asyncio.start_server(link.serve, *listen, backlog=BACKLOG)
        self._servers.append(server)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for link in self._links:
            link._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
