"""Somebody with a thread of their own while a story is told."""

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self


@dataclass(kw_only=True)
class Companion(ABC):
    """Busy while the block runs; what goes wrong in its thread is raised where the block ends."""

    failure: BaseException | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    @abstractmethod
    def live(self) -> None:
        """What it does until `_over` is set."""

    def __enter__(self) -> Self:
        """Begin."""
        self._thread = threading.Thread(target=self._guarded, name=type(self).__name__.lower())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; raises what went wrong here."""
        self._over.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _guarded(self) -> None:
        try:
            self.live()
        except BaseException as failure:  # noqa: BLE001 - raised again where the test sees it
            self.failure = failure
