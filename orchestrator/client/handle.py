"""A run on the database."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.orm import Session

from chargehand.memory.artifacts import ArtifactMissing
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import charges, runs, views
from chargehand.orchestrator.auditing import Audit, TenantOf, as_line, rows_of, verify_all
from chargehand.orchestrator.charges import RunCosts
from chargehand.orchestrator.client.interface import AnyRun
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.explaining import Explanation, explain, explain_step
from chargehand.orchestrator.replay import Replay, ask_workers_to_replay
from chargehand.orchestrator.requests import check_message, microusd
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import Event, RunView, StepView


class RunHandle(AnyRun):
    """One run of a client."""

    def __init__(self, services: Services, tenant: UUID, run_id: UUID, *, name: str = "") -> None:
        """A handle does not ask whether the run exists yet: a submission may still wait for its transaction.

        `name`: who has work done again, for the journal.
        """
        self._services, self._tenant, self._name = services, tenant, name
        self.run_id = run_id

    def status(self) -> RunView:
        """The run now; raises `NotFound`."""
        with self._services.session(self._tenant) as session:
            return views.view_run(session, self.run_id)

    def steps(self) -> list[StepView]:
        """Its steps now, in plan order."""
        with self._services.session(self._tenant) as session:
            return views.view_steps(session, self.run_id)

    def events(self, *, follow: bool = True, timeout_seconds: float | None = None) -> Iterator[Event]:
        """Its facts as they come, each stream in its order, until the run has ended (or those there are now)."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        seen: dict[UUID, int] = {}
        with self._services.follower(self.run_id) as follower:
            while True:
                # Asked before the rows are read: what an ended run still writes is then not missed.
                ended = self._has_ended()
                with self._services.session(self._tenant) as session:
                    events = views.events_after(session, self.run_id, seen)
                for event in events:
                    seen[event.step_id or RUN_STREAM] = event.seq
                    yield event
                if not follow or (ended and not events):
                    return
                if deadline is not None and time.monotonic() > deadline:
                    raise self.has_not_ended(timeout_seconds)
                follower.wait()

    def wait_for_end(self, timeout_seconds: float | None = None) -> None:
        """Return when the run has ended; raises `WaitTimeout`."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._services.follower(self.run_id) as follower:
            while not self._has_ended():
                if deadline is not None and time.monotonic() > deadline:
                    raise self.has_not_ended(timeout_seconds)
                follower.wait()

    def given(self) -> JsonValue:
        """What the final steps have given so far."""
        with self._services.session(self._tenant) as session:
            return views.result_of(session, self.run_id)

    def artifacts(self) -> dict[str, str]:
        """name → content hash of what its steps kept."""
        with self._services.session(self._tenant) as session:
            return views.artifacts(session, self.run_id)

    def blob(self, digest: str) -> bytes:
        """One of its artifacts by content hash; raises `NotFound`, also for what is another run's."""
        # A hash is no secret: of what the tenant may not read nothing is given.
        if digest not in self.artifacts().values():
            raise NotFound(f"Run {self.run_id} kept nothing with the hash {digest[:80]!r}.")
        try:
            return self._services.artifacts.get(digest)
        except ArtifactMissing as error:
            raise NotFound(str(error)) from error

    def cancel(self, reason: str = "cancelled by its owner") -> bool:
        """End it now; False when it had ended already."""
        with self._changing() as session:
            return runs.cancel(session, self._tenant, self.run_id, reason=reason)

    def pause(self, reason: str = "") -> bool:
        """Start nothing new and stop running steps at their next commit."""
        with self._services.session(self._tenant) as session:
            return runs.pause(session, self._tenant, self.run_id, reason=reason)

    def resume(self) -> bool:
        """Let it go on."""
        with self._changing() as session:
            return runs.resume(session, self._tenant, self.run_id)

    def raise_budget(self, to_usd: str | Decimal) -> bool:
        """Let it spend this much all in all; False when it may already."""
        to_microusd = microusd(to_usd)
        with self._changing() as session:
            return runs.raise_budget(session, self._tenant, self.run_id, to_microusd=to_microusd)

    def retry(self, step: str) -> tuple[str, ...]:
        """Do a step once more, with all that was built on it; gives the keys of the new steps."""
        with self._changing() as session:
            return runs.retry(session, self._tenant, self.run_id, step, by=self._name)

    def tell(self, message: str) -> None:
        """Leave a message for its agents."""
        with self._services.session(self._tenant) as session:
            runs.tell(session, self._tenant, self.run_id, check_message(message))

    def progress(self) -> dict[str, str]:
        """step key → what a running step says it is doing."""
        return self._services.progress(self.run_id)

    def explain(self) -> list[tuple[str, str]]:
        """Why each live step does not go on: step key → reason in words."""
        with self._services.session(self._tenant) as session:
            return explain(session, self.run_id, unclaimed_seconds=self._services.settings.unclaimed_seconds)

    def explain_step(self, step: str) -> Explanation:
        """Why one step does not go on, in depth; raises `NotFound`."""
        with self._services.session(self._tenant) as session:
            return explain_step(session, self.run_id, step, unclaimed_seconds=self._services.settings.unclaimed_seconds)

    def replay(self) -> Replay:
        """Do it again from its journal, without models or effects, in a process that knows the workers' tools."""
        self.status()
        url = self._services.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return ask_workers_to_replay(self.run_id, tenant=self._tenant, database_url=url)

    def verify(self) -> Audit:
        """Check every hash of its journal, and the chain of ended runs."""
        self.status()
        return verify_all(self._of_tenant(), self.run_id)

    def journal(self) -> Iterator[Mapping[str, JsonValue]]:
        """Every row of its journal with its hashes, as JSON has it, and its anchor last."""
        for row in rows_of(self._of_tenant(), self.run_id):
            yield json.loads(as_line(row))

    def _of_tenant(self) -> TenantOf:
        return TenantOf(
            settings=self._services.settings, tenant=self._tenant, session=lambda: self._services.session(self._tenant)
        )

    def partial(self) -> dict[str, JsonValue]:
        """What its succeeded steps gave, by key, where no later one has built on it."""
        with self._services.session(self._tenant) as session:
            return views.partial_of(session, self.run_id)

    def costs(self, *, as_claude: bool = False) -> RunCosts:
        """Where its money went, and what caching and routing saved; `as_claude`: at Claude's prices, by tier."""
        with self._services.session(self._tenant) as session:
            return charges.of_run(session, self.run_id, self._services.settings, as_claude=as_claude)

    @contextmanager
    def _changing(self) -> Iterator[Session]:
        """A transaction after which a supervisor is told."""
        with self._services.session(self._tenant) as session:
            yield session
        self._services.ring(self.run_id)

    def _has_ended(self) -> bool:
        with self._services.session(self._tenant) as session:
            status = session.execute(
                text("SELECT status FROM runs WHERE id = :run"), {"run": self.run_id}
            ).scalar_one_or_none()
            if (
                status is None
                and not session.execute(
                    text("SELECT EXISTS (SELECT FROM submissions WHERE run = :run)"), {"run": self.run_id}
                ).scalar_one()
            ):
                raise NotFound(f"There is no run {self.run_id}; its transaction has not committed, or it was refused.")
        return status in RUN_ENDINGS
