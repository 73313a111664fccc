"""The keys of a tenant: made, listed and revoked, on the database or over HTTP."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from urllib.parse import quote
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from chargehand.orchestrator import keys
from chargehand.orchestrator.client.requesting import Requests
from chargehand.orchestrator.keys import DEFAULT_SCOPES, Key

_KEY, _KEYS = TypeAdapter(Key), TypeAdapter(list[Key])


class AnyKeys(ABC):
    """Who may use the HTTP API, and for what."""

    @abstractmethod
    def add(self, name: str, scopes: Collection[str] = DEFAULT_SCOPES) -> Key:
        """Make a key; its secret is in what this gives, and never again. Raises `UserError`."""

    @abstractmethod
    def list(self) -> list[Key]:
        """All of them, oldest first, those that were revoked too."""

    @abstractmethod
    def revoke(self, name: str) -> Key:
        """Make a key worthless, by its prefix, its id or its name; raises `NotFound`."""


class Keys(AnyKeys):
    """Those of a tenant, on the database."""

    def __init__(self, session: Callable[[], AbstractContextManager[Session]], tenant: UUID) -> None:
        """`session` opens a transaction bound to the tenant."""
        self._session, self._tenant = session, tenant

    def add(self, name: str, scopes: Collection[str] = DEFAULT_SCOPES) -> Key:
        """Make a key, see `AnyKeys.add`."""
        with self._session() as session:
            return keys.add(session, self._tenant, name, scopes)

    def list(self) -> list[Key]:
        """All of them, oldest first, those that were revoked too."""
        with self._session() as session:
            return keys.listed(session, self._tenant)

    def revoke(self, name: str) -> Key:
        """Make a key worthless; raises `NotFound`."""
        with self._session() as session:
            return keys.revoke(session, self._tenant, name)


class HttpKeys(AnyKeys):
    """Those of the key's tenant; it must have the scope `admin`."""

    def __init__(self, requests: Requests) -> None:
        """Of a client."""
        self._requests = requests

    def add(self, name: str, scopes: Collection[str] = DEFAULT_SCOPES) -> Key:
        """Make a key, see `AnyKeys.add`. Sent once: a key whose answer is lost is found by `list`, and revoked."""
        return _KEY.validate_python(self._requests.post("/v1/keys", {"name": name, "scopes": [*scopes]}))

    def list(self) -> list[Key]:
        """All of them, oldest first, those that were revoked too."""
        return _KEYS.validate_python(self._requests.get("/v1/keys"))

    def revoke(self, name: str) -> Key:
        """Make a key worthless; raises `NotFound`."""
        return _KEY.validate_python(self._requests.delete(f"/v1/keys/{quote(name, safe='')}"))
