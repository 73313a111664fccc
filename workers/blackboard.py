"""Shared state as one attempt uses it: read by anybody, replaced only while the attempt holds its step.

Every verb is a transaction of its own. A script that is run again does what it does again: let `change` bear that, or
keep in the value what has been done.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy.orm import Session

from chargehand.memory import shared_state
from chargehand.memory.redlock import Redlock
from chargehand.memory.shared_state import Lease, Versioned
from chargehand.memory.state_changes import Author

# Shared state of all runs of the tenant.
ACROSS_RUNS = "tenant"

OpenSession = Callable[[], AbstractContextManager[Session]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Blackboard:
    """The values that the steps of a run share."""

    open_session: OpenSession
    """A transaction that is refused when the attempt has lost its step."""
    tenant: UUID
    scope: str
    author: Author
    redlock: Redlock | None = None

    @property
    def across_runs(self) -> "Blackboard":
        """The values that all runs of the tenant share."""
        return replace(self, scope=ACROSS_RUNS)

    def read(self, key: str) -> Versioned:
        """The value and its version; None at version 0 where nobody has written."""
        return self.read_many([key])[key]

    def read_many(self, keys: Sequence[str]) -> dict[str, Versioned]:
        """The values of these keys as they were at one moment."""
        with self.open_session() as session:
            return shared_state.read_many(session, tenant=self.tenant, scope=self.scope, keys=keys)

    def update(self, key: str, change: Callable[[JsonValue], JsonValue]) -> Versioned:
        """Replace the value by `change(value)`, which is asked again when another was faster; it has no effects."""
        with self.open_session() as session:
            return shared_state.update(
                session, tenant=self.tenant, scope=self.scope, key=key, change=change, author=self.author
            )

    def transact(
        self, keys: Sequence[str], change: Callable[[Mapping[str, JsonValue]], Mapping[str, JsonValue]]
    ) -> dict[str, Versioned]:
        """Replace several values by what `change(values)` gives of them, all or none."""
        with self.open_session() as session:
            return shared_state.transact(
                session, tenant=self.tenant, scope=self.scope, keys=keys, change=change, author=self.author
            )

    def commit(
        self, *, view: Mapping[str, int], values: Mapping[str, JsonValue], call_key: str
    ) -> dict[str, Versioned]:
        """Replace values if all of `view` (key → version) is as it was seen, once for `call_key`; else `StaleState`."""
        with self.open_session() as session:
            return shared_state.commit_on_view(
                session,
                tenant=self.tenant,
                scope=self.scope,
                view=view,
                values=values,
                author=replace(self.author, call_key=call_key),
            )

    @contextmanager
    def lease(self, key: str, *, wait_seconds: float = 0.0) -> Iterator["Leased"]:
        """The sole right to replace a value while the block runs; raises `LockBusy` when another has it."""
        if self.redlock is None:
            raise ValueError("This program has no Redis for leases; use update, or run it in a worker.")
        with shared_state.lease(
            self.open_session,
            self.redlock,
            tenant=self.tenant,
            scope=self.scope,
            key=key,
            author=self.author,
            wait_seconds=wait_seconds,
        ) as held:
            yield Leased(open_session=self.open_session, held=held)


@dataclass(frozen=True, kw_only=True, slots=True)
class Leased:
    """A value that nobody else works on, as far as a lock can promise that."""

    open_session: OpenSession
    held: Lease

    @property
    def value(self) -> JsonValue:
        """As it was when the lease was taken."""
        return self.held.view.value

    def commit(self, value: JsonValue) -> Versioned:
        """Replace it, or raise `StaleState` when another took the lease or wrote meanwhile."""
        with self.open_session() as session:
            return self.held.commit(session, value)
