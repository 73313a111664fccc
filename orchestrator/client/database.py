"""A client that works on the database."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Self
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy.orm import Session

from chargehand.memory.procedural import Role
from chargehand.orchestrator import answering, charges, forks, runs, views
from chargehand.orchestrator.answering import Answered
from chargehand.orchestrator.auditing import Audit, verify_all
from chargehand.orchestrator.charges import FleetCosts
from chargehand.orchestrator.client.erasing import erase
from chargehand.orchestrator.client.handle import RunHandle
from chargehand.orchestrator.client.holding_keys import Keys
from chargehand.orchestrator.client.interface import PAGE_RUNS, AnyClient, AnyRun
from chargehand.orchestrator.client.memories import Memories
from chargehand.orchestrator.client.scheduling import Schedules
from chargehand.orchestrator.client.services import Services, user_name
from chargehand.orchestrator.client.submitting import CallersConnection, submit
from chargehand.orchestrator.completion import Completion, as_result, complete
from chargehand.orchestrator.erasure import Also, Erased, runs_of_conversation
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import OnBudget, OnConflict
from chargehand.orchestrator.forking import Change
from chargehand.orchestrator.forks import ForkRequest
from chargehand.orchestrator.hints import Follower
from chargehand.orchestrator.listing import RunFilter, RunPage, page_of_runs
from chargehand.orchestrator.plan import Plan, step_id
from chargehand.orchestrator.requests import microusd
from chargehand.orchestrator.settings import Settings, load_settings
from chargehand.orchestrator.tenant_caps import TenantCaps, caps_of
from chargehand.orchestrator.views import Escalation
from chargehand.orchestrator.webhooks import outbox
from chargehand.orchestrator.webhooks.outbox import Delivery, Webhook
from chargehand.orchestrator.webhooks.payload import EVENTS


class Client(AnyClient[RunHandle]):
    """A connection of one tenant to the database; thread-safe."""

    def __init__(
        self,
        database_url: str | None = None,
        redis_url: str | None = None,
        *,
        tenant: UUID | None = None,
        settings: Settings | None = None,
        name: str | None = None,
    ) -> None:
        """Use these servers, or those of `CHARGEHAND_*`, or the laptop that runs in `CHARGEHAND_HOME`.

        `name`: who answers questions, for the journal; the user of this process otherwise. It is what the caller says,
        nobody checks it. Raises `Unavailable` when none of these says where Postgres is.
        """
        self.settings = settings or load_settings()
        self.services = Services(self.settings, database_url=database_url, redis_url=redis_url)
        self.name = name or user_name()
        self.tenant = tenant or self.settings.tenant
        self._owns_services = True

    @classmethod
    def sharing(cls, services: Services, *, tenant: UUID, name: str) -> Self:
        """A client of a tenant on connections that are another's to close; it costs nothing to make."""
        made = cls.__new__(cls)
        made.settings, made.services = services.settings, services
        made.name, made.tenant = name, tenant
        made._owns_services = False
        return made

    def close(self) -> None:
        """Close every connection that is its own."""
        if self._owns_services:
            self.services.close()

    def submit(
        self,
        goal: str = "",
        *,
        plan: Plan | None = None,
        workspace: str | Path | None = None,
        budget_usd: str | Decimal | None = None,
        idempotency_key: str | None = None,
        priority: int = 0,
        deadline_seconds: float | None = None,
        conversation_id: str | None = None,
        connection: CallersConnection | None = None,
        roles: Iterable[Role] = (),
        concurrency_key: str | None = None,
        on_conflict: OnConflict = "queue",
        replans: int | None = None,
        on_budget: OnBudget = "fail",
        max_calls: int | None = None,
        max_tokens: int | None = None,
        consolidate_usd: str | Decimal | None = None,
        tier: str | None = None,
        model: str | None = None,
    ) -> RunHandle:
        """Ask for a run, see `AnyClient.submit`.

        With `connection` (psycopg, SQLAlchemy) the run exists if and only if the caller's transaction commits.
        """
        run_id = submit(
            self.services,
            self.tenant,
            goal=goal,
            plan=plan,
            workspace=workspace,
            budget_usd=budget_usd,
            idempotency_key=idempotency_key,
            priority=priority,
            deadline_seconds=deadline_seconds,
            conversation_id=conversation_id,
            connection=connection,
            roles=roles,
            concurrency_key=concurrency_key,
            on_conflict=on_conflict,
            replans=replans,
            on_budget=on_budget,
            max_calls=max_calls,
            max_tokens=max_tokens,
            consolidate_usd=consolidate_usd,
            tier=tier,
            model=model,
        )
        return self._handle(run_id)

    @property
    def memory(self) -> Memories:
        """What is remembered: add, note, search, forget, stats, reindex."""
        return Memories(self.session, self.tenant, engine=self.services.engine)

    def erase(
        self,
        *,
        run: UUID | str | None = None,
        conversation_id: str | None = None,
        later: bool = False,
        sources: Sequence[str] = (),
        subjects: Sequence[str] = (),
    ) -> Erased:
        """Erase what a run, or every run of a conversation, has said, see `AnyClient.erase`."""
        if run is not None and conversation_id is not None:
            raise UserError("Name one of them: a run, or a conversation.")
        if run is None and conversation_id is None and (later or not (sources or subjects)):
            raise UserError("Name what to erase: a run, a conversation, a source or a subject.")
        run_ids: tuple[UUID, ...] = ()
        if run is not None:
            run_ids = (self.run(run).run_id,)
        elif conversation_id is not None:
            with self.session() as session:
                run_ids = runs_of_conversation(session, self.tenant, conversation_id)
        also = Also(later=later, sources=tuple(sources), subjects=tuple(subjects))
        return erase(self.services, self.tenant, run_ids, also)

    def verify(self) -> Audit:
        """Check every hash of every run, and the chain of ended runs."""
        return verify_all(self)

    @property
    def keys(self) -> Keys:
        """Who may use the HTTP API: add, list, revoke."""
        return Keys(self.session, self.tenant)

    @property
    def schedules(self) -> Schedules:
        """Runs that are asked for by the clock: add, list, remove, pause, resume."""
        return Schedules(self.session, self.tenant, self.settings)

    def fork(
        self,
        run: UUID | str | AnyRun,
        at: str,
        *,
        roles: Iterable[Role] = (),
        instruction: str | None = None,
        arguments: Mapping[str, JsonValue] | None = None,
        tier: str | None = None,
        model: str | None = None,
        budget_usd: str | Decimal | None = None,
        idempotency_key: str | None = None,
    ) -> RunHandle:
        """A new run from where this one stood, see `AnyClient.fork`."""
        source = self.run(run)
        step, turn = forks.place_of(at, {one.key for one in source.steps()})
        request = ForkRequest(
            run_id=runs.new_run_id(),
            source=source.run_id,
            at=step,
            turn=turn,
            change=Change(instruction=instruction, arguments=arguments, tier=tier, model=model),
            roles=tuple(roles),
            budget_microusd=None if budget_usd is None else microusd(budget_usd),
            idempotency_key=idempotency_key,
        )
        made = forks.fork(self.services.engine, self.tenant, self.services.artifacts, request)
        self.services.ring(made)
        return self._handle(made)

    def run(self, run: UUID | str | AnyRun) -> RunHandle:
        """A run by its id, by a unique beginning or end of it, or by its handle; raises `NotFound`."""
        wanted = run.run_id if isinstance(run, AnyRun) else run
        with self.session() as session:
            run_id = wanted if isinstance(wanted, UUID) else views.find_run(session, wanted)
            views.view_run(session, run_id)
        return self._handle(run_id)

    def page(self, wanted: RunFilter, *, limit: int = PAGE_RUNS, cursor: str | None = None) -> RunPage:
        """Runs that pass the filter, the newest first, and where the next page begins."""
        with self.session() as session:
            return page_of_runs(session, wanted, limit=limit, cursor=cursor)

    def caps(self) -> TenantCaps:
        """What all runs of the tenant together may spend, and what is lent to them."""
        with self.session() as session:
            return caps_of(session, self.tenant)

    def costs(self, within: timedelta, *, as_claude: bool = False) -> FleetCosts:
        """Where the money of all the tenant's runs went in this last stretch of time."""
        with self.session() as session:
            return charges.of_fleet(session, within, self.settings, as_claude=as_claude)

    def escalations(self, run: UUID | str | None = None, *, each: bool = False) -> list[Escalation]:
        """What people are asked; questions of one run about the same cause are one, unless `each` is wanted."""
        run_id = None if run is None else self.run(run).run_id
        with self.session() as session:
            return views.escalations(session, run_id, each=each)

    def _answer(self, escalation: Escalation, choice: str, body: JsonValue, *, by: str, only: bool) -> Answered:
        with self.session() as session:
            answered = answering.answer(
                session,
                self.tenant,
                run_id=escalation.run_id,
                step=escalation.step_id,
                wait_id=escalation.wait_id,
                choice=choice,
                body=body,
                by=by,
                only=only,
            )
        self.services.ring(escalation.run_id)
        return answered

    def complete(
        self, run: UUID | str, step: UUID | str, result: object = None, *, error: str = "", by: str = "client"
    ) -> bool:
        """Say what became of the Celery task of a step, see `AnyClient.complete`."""
        run_id = self.run(run).run_id
        told = Completion(outcome="failed" if error else "succeeded", result=as_result(result), error=error, by=by)
        named = step if isinstance(step, UUID) else step_id(run_id, step)
        with self.session() as session:
            try:
                first = complete(session, self.tenant, run_id=run_id, step=named, completion=told)
            except NotFound as error:
                raise NotFound(f"Run {run_id} has no step {str(step)!r}; `chargehand status` lists them.") from error
        self.services.ring(run_id)
        return first

    def add_webhook(self, url: str, *, events: Collection[str] = EVENTS, secret: str | None = None) -> Webhook:
        """Tell this URL, signed, of what happens from now on; its secret is in what this gives, and never again."""
        with self.session() as session:
            return outbox.add(session, self.tenant, url, events, secret)

    def remove_webhook(self, name: str) -> Webhook:
        """Forget a webhook by its id or a beginning of it; raises `NotFound`."""
        with self.session() as session:
            return outbox.remove(session, self.tenant, name)

    def webhooks(self) -> list[Webhook]:
        """All of the tenant."""
        with self.session() as session:
            return outbox.webhooks(session, self.tenant)

    def deliveries(self, *, failed: bool = False, limit: int = 20) -> list[Delivery]:
        """What webhooks were to hear, the newest first; `failed`: only what was given up."""
        with self.session() as session:
            return outbox.deliveries(session, self.tenant, failed=failed, limit=limit)

    def redeliver(self) -> int:
        """Try again what was given up; gives how many."""
        with self.session() as session:
            return outbox.redeliver(session, self.tenant)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction bound to the tenant; raises `Unavailable` when Postgres does not answer."""
        with self.services.session(self.tenant) as session:
            yield session

    def ring(self, run_id: UUID) -> bool:
        """Tell a supervisor now; False when the broker is down, then it finds out within a second or two."""
        return self.services.ring(run_id)

    def progress(self, run_id: UUID) -> dict[str, str]:
        """step key → what a running step says it is doing."""
        return self.services.progress(run_id)

    def artifact(self, digest: str) -> bytes:
        """A blob by its content hash."""
        return self.services.artifacts.get(digest)

    def follower(self, run_id: UUID) -> AbstractContextManager[Follower]:
        """Waits for a run to go on while the block lasts; where no Redis is known it looks by the clock."""
        return self.services.follower(run_id)

    def _handle(self, run_id: UUID) -> RunHandle:
        return RunHandle(self.services, self.tenant, run_id, name=self.name)
