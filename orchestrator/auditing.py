"""An audit of a tenant's journal: every run verified, the chain of ended runs, and a copy of a run's rows."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.journal import Objection
from chargehand.memory.tables import RUN_STREAM, RunAnchor
from chargehand.orchestrator import verification, views
from chargehand.orchestrator.auditkey import audit_key, key_file
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.tables import RunRow
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.verification import Verification

# A run that goes on may write between two of our reads; a real objection is still there the next time.
LOOKS_AT_A_LIVE_RUN = 3
LOOK_AGAIN_SECONDS = 0.2


class OfTenant(Protocol):
    """Whoever opens transactions bound to a tenant: a client."""

    @property
    def settings(self) -> Settings:
        """Where the key of the seals is."""

    @property
    def tenant(self) -> UUID:
        """Whose journal it is."""

    def session(self) -> AbstractContextManager[Session]:
        """A transaction."""


@dataclass(frozen=True, kw_only=True)
class TenantOf:
    """A tenant whose transactions somebody else opens."""

    settings: Settings
    tenant: UUID
    session: Callable[[], AbstractContextManager[Session]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What a verification found."""

    runs: tuple[Verification, ...]
    anchors: tuple[Objection, ...]
    """Objections to the tenant's chain of ended runs."""
    seals_checked: bool
    """False: the key that sealed the chain is not here."""

    @property
    def objections(self) -> tuple[Objection, ...]:
        """Everything that is wrong."""
        return (*(one for run in self.runs for one in run.objections), *self.anchors)


def verify_all(client: OfTenant, run_id: UUID | None = None) -> Audit:
    """Verify one run, or all of the tenant, and the chain of ended runs."""
    key = known_key(client.settings)
    with client.session() as session:
        wanted = [run_id] if run_id is not None else list(session.scalars(select(RunRow.id).order_by(RunRow.id)))
    verified = tuple(_verify(client, one) for one in wanted)
    with client.session() as session:
        anchors = tuple(journal.verify_anchors(session, client.tenant, key=key))
    return Audit(runs=verified, anchors=anchors, seals_checked=key is not None)


def rows_of(client: OfTenant, run_id: UUID) -> Iterator[dict[str, object]]:
    """Every row of a run's journal with its hashes, and the run's anchor last; a few rows are held at a time."""
    with client.session() as session:
        views.view_run(session, run_id)
        for entry in journal.scan(session, run_id):
            row: dict[str, object] = {name: getattr(entry, name) for name in entry.__slots__}
            yield {**row, "step": None if entry.step == RUN_STREAM else entry.step}
        for anchor in session.scalars(select(RunAnchor).where(RunAnchor.run == run_id).order_by(RunAnchor.seq)):
            yield {
                "kind": "anchor",
                "run": anchor.run,
                "seq": anchor.seq,
                "run_seq": anchor.run_seq,
                "run_hash": anchor.run_hash,
                "hash": anchor.hash,
                "seal": anchor.seal,
            }


def as_line(row: Mapping[str, object]) -> str:
    """A row as one line of JSON, hashes in hex."""
    return json.dumps(row, default=_plain)


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else value.isoformat() if hasattr(value, "isoformat") else str(value)


def known_key(settings: Settings) -> bytes | None:
    """The key of the seals; None when it is not on this machine (a new one would fit none of them)."""
    if settings.audit_key.get_secret_value() or key_file(settings).is_file():
        return audit_key(settings)
    return None


def _verify(client: OfTenant, run_id: UUID) -> Verification:
    for look in range(1, LOOKS_AT_A_LIVE_RUN + 1):
        with client.session() as session:
            ended = views.view_run(session, run_id).status in RUN_ENDINGS
            verified = verification.verify_run(session, run_id)
        if not verified.objections or (ended and look > 1) or look == LOOKS_AT_A_LIVE_RUN:
            return verified
        time.sleep(LOOK_AGAIN_SECONDS)
    raise AssertionError("unreachable: the last look returns")
