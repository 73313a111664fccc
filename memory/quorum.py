"""Independent Redis nodes that are asked the same thing at once, and none waited for that the decision can do without.

A node that has gone costs a decision nothing while a majority answers: its connection is made anew in the background.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import redis
from redis.connection import Connection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

# When a majority has agreed, the others get this long: a healthy node has answered by then, and keeps its connection.
GRACE_SECONDS = 0.005
# What nobody waits for the answer of still has to reach nodes that are healthy and not connected: about a connect.
PATIENCE_SECONDS = 0.02
# A read needs some time, or what has arrived already would not be read.
LEAST_READ_SECONDS = 0.001

Reply = object
"""What a node said, or the `RedisError` that stands for its silence."""


class Nodes:
    """Connections to every node; threads may share it."""

    def __init__(self, clients: Sequence[redis.Redis], *, timeout_seconds: float) -> None:
        """`timeout_seconds`: what one question may take in all, however many nodes are away."""
        self._nodes = tuple(_Node(client) for client in clients)
        self._timeout_seconds = timeout_seconds
        # A thread a node: one that hangs in its connect must not hold up the others.
        self._connecting = ThreadPoolExecutor(max_workers=len(self._nodes), thread_name_prefix="redlock")

    def __len__(self) -> int:
        """How many there are, up or not."""
        return len(self._nodes)

    @property
    def majority(self) -> int:
        """How many must agree."""
        return len(self._nodes) // 2 + 1

    def close(self) -> None:
        """Give every connection back to its client."""
        self._connecting.shutdown(wait=False, cancel_futures=True)
        for node in self._nodes:
            node.close()

    def ask(self, command: tuple[str, ...], *, agrees: Callable[[Reply], bool]) -> list[Reply]:
        """The replies of all nodes, in their order; an error where a node did not answer in time.

        Every node is sent the command before the first is read: five cost one round trip (.3 ms against 1.5). Once a
        majority agrees the rest is not waited for; what it says later is never taken for the answer to another command.
        """
        deadline = time.monotonic() + self._timeout_seconds
        replies, absent = self._ask_connected(command, agrees, deadline)
        while absent and sum(map(agrees, replies)) < self.majority:
            if not self._ask_absent(command, replies, absent, deadline):
                break
        return replies

    def tell(self, command: tuple[str, ...]) -> None:
        """Have all nodes do it that can be reached soon; what they say does not matter."""
        deadline = time.monotonic() + self._timeout_seconds
        replies, absent = self._ask_connected(command, lambda _: True, deadline)
        deadline = min(deadline, time.monotonic() + PATIENCE_SECONDS)
        while absent and self._ask_absent(command, replies, absent, deadline):
            pass

    def _ask_connected(
        self, command: tuple[str, ...], agrees: Callable[[Reply], bool], deadline: float
    ) -> tuple[list[Reply], "dict[int, Future[None]]"]:
        """The replies of those that are connected; to the others a connection is being made."""
        replies: list[Reply] = [RedisTimeoutError("no answer in time")] * len(self._nodes)
        sent: dict[int, Connection] = {}
        absent: dict[int, Future[None]] = {}
        for number, node in enumerate(self._nodes):
            connection = node.send(command)
            if connection is not None:
                sent[number] = connection
            else:
                absent[number] = node.connect_in(self._connecting)
        votes = 0
        for number, connection in sent.items():
            if votes >= self.majority:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            replies[number] = self._nodes[number].receive(connection, deadline)
            votes += agrees(replies[number])
        return replies, absent

    def _ask_absent(
        self, command: tuple[str, ...], replies: list[Reply], absent: "dict[int, Future[None]]", deadline: float
    ) -> bool:
        """Ask those whose connection has been made meanwhile; False: none was, in time."""
        remaining = max(0.0, deadline - time.monotonic())
        made, _ = wait_for(absent.values(), timeout=remaining, return_when=FIRST_COMPLETED)
        for number in [number for number, future in absent.items() if future in made]:
            node, failure = self._nodes[number], absent.pop(number).exception()
            if failure is not None:
                replies[number] = failure
                continue
            connection = node.send(command)
            if connection is not None:
                replies[number] = node.receive(connection, deadline)
            else:
                # Another thread was faster to use it.
                absent[number] = node.connect_in(self._connecting)
        return bool(made)


class _Node:
    """One node: connections that are ready for the next command, and at most one that is being made."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._idle: deque[Connection] = deque()
        self._lock = threading.Lock()
        self._being_made: Future[None] | None = None
        self._closed = False

    def send(self, command: tuple[str, ...]) -> Connection | None:
        """A connection on which the command was sent and not yet answered; None: there is none now."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            try:
                # Something to read before anything was asked: the server has closed it.
                if not connection.can_read(timeout=0):
                    connection.send_command(*command, check_health=False)
                    return connection
            except (RedisError, OSError):
                pass
            self._discard(connection)

    def receive(self, connection: Connection, deadline: float) -> Reply:
        """The answer to what was sent, or the error; a connection that may still get one is closed."""
        try:
            remaining = max(LEAST_READ_SECONDS, deadline - time.monotonic())
            reply: object = connection.read_response(timeout=remaining)
        except RedisError as error:
            self._discard(connection)
            return error
        except OSError as error:
            self._discard(connection)
            return RedisTimeoutError(str(error))
        self._idle.append(connection)
        return reply

    def connect_in(self, threads: ThreadPoolExecutor) -> "Future[None]":
        """A connection is being made, by whoever asked first; it is idle when the future is done."""
        with self._lock:
            if self._being_made is None or self._being_made.done():
                self._being_made = threads.submit(self._connect)
            return self._being_made

    def _connect(self) -> None:
        connection = self._pool.get_connection()
        self._idle.append(connection)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Give the idle connections back."""
        self._closed = True
        while self._idle:
            self._pool.release(self._idle.pop())

    def _discard(self, connection: Connection) -> None:
        connection.disconnect()
        self._pool.release(connection)
