"""What the tenant of a key remembers, through the HTTP API."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from chargehand.memory.beliefs import LIBRARY
from chargehand.memory.forgetting import Forgotten
from chargehand.memory.holdings import Holding
from chargehand.memory.semantic import Recalled
from chargehand.orchestrator.client.requesting import Requests

_RECALLED = TypeAdapter(tuple[Recalled, ...])
_HOLDINGS = TypeAdapter(tuple[Holding, ...])
_FORGOTTEN = TypeAdapter(Forgotten)


class HttpMemories:
    """As `Memories`, but for folders and embedding models, which are the server's."""

    def __init__(self, requests: Requests) -> None:
        """Of a client."""
        self._requests = requests

    def note(self, text: str, *, source: str, scope: str = LIBRARY) -> UUID:
        """Remember a sentence or a page; gives its id. Raises `UserError`."""
        body = {"text": text, "source": source, "scope": scope}
        return UUID(self._requests.post("/v1/memory/notes", body)["memory_id"])

    def search(
        self,
        query: str,
        *,
        scope: str = LIBRARY,
        kinds: Sequence[str] | None = None,
        limit: int = 8,
        as_of: datetime | None = None,
    ) -> tuple[Recalled, ...]:
        """What answers the query best, best first, see `Memories.search`."""
        asked: dict[str, Any] = {"query": query, "scope": scope, "limit": limit}
        if kinds is not None:
            asked["kinds"] = list(kinds)
        if as_of is not None:
            asked["as_of"] = as_of.isoformat()
        return _RECALLED.validate_python(self._requests.get("/v1/memory/search", asked))

    def forget(
        self,
        source: str | None = None,
        *,
        scope: str | None = None,
        memories: Collection[UUID] = (),
        runs: Collection[UUID] = (),
    ) -> Forgotten:
        """Delete what was read in a source, some memories, or what came of runs, see `Memories.forget`."""
        body: dict[str, Any] = {"memories": [str(one) for one in memories], "runs": [str(one) for one in runs]}
        body |= {name: value for name, value in (("source", source), ("scope", scope)) if value is not None}
        return _FORGOTTEN.validate_python(self._requests.post("/v1/memory/forget", body))

    def stats(self) -> tuple[Holding, ...]:
        """How much is remembered, by scope."""
        return _HOLDINGS.validate_python(self._requests.get("/v1/memory"))
