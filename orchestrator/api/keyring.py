"""Whose key this is, remembered for a moment."""

import hashlib
import threading
import time

from sqlalchemy import Engine

from chargehand.orchestrator import keys
from chargehand.orchestrator.keys import Holder

# A key that was revoked is refused after this at the latest.
REMEMBERED_SECONDS = 2.0
MOST_REMEMBERED = 1_000


class Keyring:
    """Looks keys up, and remembers for a moment whose they are; any thread may call it."""

    def __init__(self, engine: Engine) -> None:
        """`engine`: of the application's role."""
        self._engine = engine
        self._known: dict[bytes, tuple[float, Holder]] = {}
        self._guard = threading.Lock()

    def holder(self, secret: str) -> Holder | None:
        """Whose key this is; None for none. Raises `Unavailable` when Postgres does not answer."""
        known = self.remembered(secret)
        if known is not None:
            return known
        found = keys.holder_of(self._engine, secret)
        digest = _digest(secret)
        with self._guard:
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            if found is None:
                self._known.pop(digest, None)
            else:
                self._known[digest] = (time.monotonic() + REMEMBERED_SECONDS, found)
        return found

    def remembered(self, secret: str) -> Holder | None:
        """Whose key this is, if it was looked up a moment ago."""
        known = self._known.get(_digest(secret))
        return known[1] if known is not None and known[0] > time.monotonic() else None


def _digest(secret: str) -> bytes:
    # Not the key itself: a dump of this process's memory should not hold more of them than it must.
    return hashlib.sha256(secret.encode()).digest()
