"""After a change of the embedding model: a thread of the workers that embed gives what is remembered new vectors.

What is left is asked of the database each time, so a worker may be killed anywhere and another one goes on. Vectors of
the former model stay: while a fleet is restarted with the new setting, old and new workers would otherwise undo each
other's work. `chargehand memory reindex` drops them, when no worker asks with that model any more.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

from sqlalchemy import Engine

from chargehand.memory.embedder import Embedder
from chargehand.memory.redlock import LockBusy, Redlock
from chargehand.memory.reindexing import NIL, embed_some

log = logging.getLogger(__name__)

# One batch keeps the model from the agents' questions for about .3 s.
BATCH = 16
# Between two batches, so that steps and questions have the processor and the model most of the time.
PAUSE_SECONDS = 0.5
# After a failure, for example of a service that embeds; and while another worker is at it.
RETRY_SECONDS = 60.0


class Reembedding:
    """Embeds anew, one small batch at a time, for the tenants it is told of."""

    def __init__(
        self,
        engine: Engine,
        embedder: Callable[[], Embedder],
        redlock: Redlock | None,
        *,
        batch: int = BATCH,
        pause_seconds: float = PAUSE_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`engine`: as the application's role. `redlock` only saves that two workers embed the same; None: they may."""
        self._engine, self._embedder, self._redlock = engine, embedder, redlock
        self._batch, self._pause_seconds, self._retry_seconds = batch, pause_seconds, retry_seconds
        self._lock = threading.Lock()
        self._wanted: dict[UUID, UUID] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reembedding", daemon=True)

    def want(self, tenant: UUID) -> None:
        """Look whether this tenant's memories have vectors of another model only, and embed them."""
        with self._lock:
            self._wanted.setdefault(tenant, NIL)
        self._wake.set()

    def start(self) -> None:
        """Begin; the model is loaded when there is something to embed."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch at hand; does not wait for it."""
        self._stopping.set()
        self._wake.set()

    def join(self, timeout_seconds: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout_seconds)

    def embed_batch(self) -> bool:
        """One batch of one tenant; whether anything may be left. Raises `LockBusy` while another worker does the same.

        Tenants take turns.
        """
        with self._lock:
            tenant = next(iter(self._wanted), None)
            if tenant is None:
                return False
            after: UUID | None = self._wanted[tenant]
        try:
            after = self._embed_some(tenant, after or NIL)
        finally:
            with self._lock:
                del self._wanted[tenant]
                if after is not None:
                    self._wanted[tenant] = after
                left = bool(self._wanted)
        return left

    def _embed_some(self, tenant: UUID, after: UUID) -> UUID | None:
        """After which memory to go on; None: all have a vector."""
        embedder = self._embedder()
        with self._alone(f"reembed:{tenant}:{embedder.model_id}"):
            made = embed_some(
                self._engine, tenant=tenant, embedder=embedder, after=after, limit=self._batch, of_others_only=True
            )
        if made is None:
            if after != NIL:
                log.info("all memories embedded anew", extra={"tenant": str(tenant), "model": embedder.model_id})
            return None
        if after == NIL:
            log.info("memories are embedded anew", extra={"tenant": str(tenant), "model": embedder.model_id})
        log.debug("memories embedded anew", extra={"tenant": str(tenant), "memories": made.embedded})
        return made.last

    def _alone(self, name: str) -> AbstractContextManager[object]:
        return nullcontext() if self._redlock is None else self._redlock.held(name)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            if self._stopping.is_set():
                return
            try:
                pause = self._pause_seconds if self.embed_batch() else None
            except LockBusy:
                pause = self._retry_seconds
            except Exception as error:  # noqa: BLE001
                # A thread that ended here would leave searches refused until the next start.
                log.warning("embedding anew failed; it is tried again", extra={"error": repr(error)})
                pause = self._retry_seconds
            if pause is None:
                self._wake.wait()
            else:
                self._stopping.wait(pause)
