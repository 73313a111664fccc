"""What a program uses: submit a goal or a plan, follow it, take its result.

with Client() as client:
    run = client.submit("Audit this repository", workspace=".", budget_usd="0.50")
    report = run.wait(timeout_seconds=900)
"""

import getpass
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
import redis
from pydantic import JsonValue
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from chargehand.memory import keyspace, procedural
from chargehand.memory.artifacts import Artifacts, RepositoryUnreadable
from chargehand.memory.database import APP_ROLE, open_engine
from chargehand.memory.git import StorageFull
from chargehand.memory.procedural import Role
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator import answering, broker, charges, endpoints, forks, runs, views
from chargehand.orchestrator.answering import Answered
from chargehand.orchestrator.building import Plan as WrittenPlan
from chargehand.orchestrator.charges import FleetCosts, RunCosts
from chargehand.orchestrator.completion import Completion, as_result, complete
from chargehand.orchestrator.errors import (
    InvalidPlan,
    InvalidWorkspace,
    NotFound,
    RunCancelled,
    RunFailed,
    Unavailable,
    UserError,
    WaitTimeout,
)
from chargehand.orchestrator.facts import SCHEMA_VERSION, OnConflict, WorkspaceRef
from chargehand.orchestrator.forking import Change
from chargehand.orchestrator.forks import ForkRequest
from chargehand.orchestrator.hints import Follower, Hints
from chargehand.orchestrator.line_fixes import parse_fix
from chargehand.orchestrator.plan import Plan, step_id, validate
from chargehand.orchestrator.progress import Progress
from chargehand.orchestrator.requests import (
    MAX_REPLANS,
    RunRequest,
    check_concurrency,
    check_conversation,
    check_goal,
    goal_plan,
    microusd,
)
from chargehand.orchestrator.scheduling import Schedules
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.settings import Settings, load_settings
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import Escalation, Event, RunView, StepView
from chargehand.orchestrator.webhooks import outbox
from chargehand.orchestrator.webhooks.outbox import Delivery, Webhook
from chargehand.orchestrator.webhooks.payload import EVENTS

CallersConnection = psycopg.Connection[Any] | Connection | Session


class Client:
    """A connection of one tenant to Chargehand; thread-safe."""

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
        self.name = name or user_name()
        self.settings = settings or load_settings()
        self.tenant = tenant or self.settings.tenant
        self._redis_url = redis_url
        self._engine: Engine = open_engine(
            database_url or endpoints.database_url(self.settings),
            role=APP_ROLE,
            connect_timeout_seconds=self.settings.connect_timeout_seconds,
        )
        self._artifacts = Artifacts(self.settings.artifacts)
        self._celery: Any = None
        self._redis: redis.Redis | None = None

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        if self._celery is not None:
            self._celery.close()

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
    ) -> "RunHandle":
        """Ask for a run: accepted means committed, whether the broker is up or not.

        A goal without a plan is decomposed by the planner. `workspace`: path or URL of a git repository, audited at its
        HEAD. With `connection` (psycopg, SQLAlchemy) the run exists if and only if the caller's transaction commits.
        `replans`: how often the planner may change the plan of a run in which a step has failed; by default three times
        for a goal (`CHARGEHAND_REPLANS`) and never for a plan of yours, which then fails with its step.
        A second submit with the same `idempotency_key` gives the first one's run. At most one run with the same
        `concurrency_key` is under way; `on_conflict`: a second one waits for its turn (`queue`), is refused (`reject`),
        or ends the others (`cancel_older`). Agents of a run with a `conversation_id` are shown what its earlier runs,
        as far as they have ended, were told and answered. Raises `ConcurrencyConflict`, `UserError` for a request that
        is wrong, `Unavailable` when Postgres does not answer; in both cases nothing is left behind, unless
        Postgres broke off at the commit itself: then only a second submit with the same key tells.
        """
        goal = check_goal(goal) if plan is None else goal.strip()
        chosen = plan or goal_plan(with_workspace=workspace is not None)
        written = chosen.roles if isinstance(chosen, WrittenPlan) else ()
        brought = {role.name: role for role in (*written, *roles)}
        validate(chosen, roles=procedural.load_roles(self.settings.roles).keys() | brought.keys())
        budget = microusd(budget_usd if budget_usd is not None else self.settings.default_budget_usd)
        run_id = runs.new_run_id()
        key = check_concurrency(concurrency_key, on_conflict)
        with self._imported(workspace, run_id) as reference:
            request = RunRequest(
                run_id=run_id,
                goal=goal,
                plan=chosen,
                workspace=reference,
                budget_microusd=budget,
                priority=priority,
                idempotency_key=idempotency_key,
                deadline_seconds=deadline_seconds,
                conversation_id=check_conversation(conversation_id),
                role_texts={role.name: role.text for role in brought.values()},
                concurrency_key=key,
                on_conflict=on_conflict,
                replans=_replans(replans, self.settings, has_plan=plan is not None),
            )
            if connection is not None:
                _enqueue(connection, self.tenant, request)
                return RunHandle(self, run_id)
            accepted = self._accept(request)
        if accepted != run_id:
            self._forget_import(run_id)
        self.ring(accepted)
        return RunHandle(self, accepted)

    @property
    def schedules(self) -> Schedules:
        """Runs that are asked for by the clock: add, list, remove, pause, resume."""
        return Schedules(self.session, self.tenant, self.settings)

    def fork(
        self,
        run: UUID | str,
        at: str,
        *,
        roles: Iterable[Role] = (),
        instruction: str | None = None,
        arguments: Mapping[str, JsonValue] | None = None,
        tier: str | None = None,
        model: str | None = None,
        budget_usd: str | Decimal | None = None,
        idempotency_key: str | None = None,
    ) -> "RunHandle":
        """A new run from where this one stood: the step `at`, and all that was built on it, is done anew.

        `at`: `STEP`, or `STEP:TURN` to take over what an agent said and heard before that turn. All other steps that
        have ended are taken over and cost nothing; those that have not are done. `roles`: other versions of the run's;
        `instruction`, `arguments` (set or replaced by name), `tier` and `model` are those of the step. The budget is
        the old one's unless given. Raises `NotFound`, `UserError`, `Unavailable`.
        """
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
        made = forks.fork(self._engine, self.tenant, self._artifacts, request)
        self.ring(made)
        return RunHandle(self, made)

    def run(self, run: UUID | str) -> "RunHandle":
        """A run by its id, or by a unique beginning or end of it; raises `NotFound`."""
        with self.session() as session:
            run_id = run if isinstance(run, UUID) else views.find_run(session, run)
            views.view_run(session, run_id)
        return RunHandle(self, run_id)

    def runs(self, limit: int = 20) -> list[RunView]:
        """The newest runs first."""
        with self.session() as session:
            return views.list_runs(session, limit=limit)

    def costs(self, within: timedelta, *, as_claude: bool = False) -> FleetCosts:
        """Where the money of all the tenant's runs went in this last stretch of time."""
        with self.session() as session:
            return charges.of_fleet(session, within, self.settings, as_claude=as_claude)

    def raise_budget(self, run: UUID | str, to_usd: str | Decimal) -> bool:
        """Let a run spend more, see `RunHandle.raise_budget`."""
        return self.run(run).raise_budget(to_usd)

    def escalations(self, run_id: UUID | None = None, *, each: bool = False) -> list[Escalation]:
        """What people are asked; questions of one run about the same cause are one, unless `each` is wanted."""
        with self.session() as session:
            return views.escalations(session, run_id, each=each)

    def answer(
        self,
        escalation: Escalation,
        choice: str,
        body: JsonValue = None,
        *,
        by: str | None = None,
        only: bool = False,
    ) -> bool:
        """Answer a waiting step; False when somebody else was first, or the step has ended meanwhile.

        Taken for the steps that are attached to it too, unless `only`; a result by hand (`override`) is one step's.
        `by`: who answers, for the journal; the client's name otherwise. Raises `UserError` for a choice that was not
        offered (a gate takes whatever does not refuse for an approval), and where a repair is wanted for what is none.
        """
        return self.resolve(escalation, choice, body, by=by, only=only).first

    def resolve(
        self,
        escalation: Escalation,
        choice: str,
        body: JsonValue = None,
        *,
        by: str | None = None,
        only: bool = False,
    ) -> Answered:
        """As `answer`; says for which other steps the answer was taken too."""
        if escalation.options and choice not in escalation.options:
            offered = ", ".join(escalation.options)
            raise UserError(f"{choice!r} is no answer to step {escalation.step_key!r}; choose one of: {offered}.")
        if escalation.wants_fix and choice == "answer":
            parse_fix(body if isinstance(body, str) else "")
        with self.session() as session:
            answered = answering.answer(
                session,
                self.tenant,
                run_id=escalation.run_id,
                step=escalation.step_id,
                wait_id=escalation.wait_id,
                choice=choice,
                body=body,
                by=by or self.name,
                only=only,
            )
        self.ring(escalation.run_id)
        return answered

    def complete(
        self, run: UUID | str, step: UUID | str, result: object = None, *, error: str = "", by: str = "client"
    ) -> bool:
        """Say what became of the Celery task of a step; False when it was answered before or has ended meanwhile.

        For whoever learns it without the callback: a webhook, a reconciliation, an app that cannot reach Postgres.
        `step`: its key or its id. With `error` the task has failed. Raises `UserError` for a result that JSON cannot
        hold or that is too large, and for a step that waits for no task.
        """
        run_id = self.run(run).run_id
        told = Completion(outcome="failed" if error else "succeeded", result=as_result(result), error=error, by=by)
        named = step if isinstance(step, UUID) else step_id(run_id, step)
        with self.session() as session:
            try:
                first = complete(session, self.tenant, run_id=run_id, step=named, completion=told)
            except NotFound as error:
                raise NotFound(f"Run {run_id} has no step {str(step)!r}; `chargehand status` lists them.") from error
        self.ring(run_id)
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
        with open_session(self._engine, self.tenant) as session:
            yield session

    def ring(self, run_id: UUID) -> bool:
        """Tell a supervisor now; False when the broker is down, then it finds out within a second or two."""
        try:
            return broker.ring_bell(self._app(), self.settings, run_id)
        except Unavailable:
            return False

    def progress(self, run_id: UUID) -> dict[str, str]:
        """step key → what a running step says it is doing."""
        return Progress(self._redis_client(), key_prefix=self.settings.key_prefix).lines(run_id)

    def artifact(self, digest: str) -> bytes:
        """A blob by its content hash."""
        return self._artifacts.get(digest)

    @contextmanager
    def follower(self, run_id: UUID) -> Iterator[Follower]:
        """Waits for a run to go on while the block lasts; where no Redis is known it looks by the clock."""
        try:
            client = self._redis_client()
        except Unavailable:
            yield Follower(None)
            return
        with Hints(client, key_prefix=self.settings.key_prefix).follow(run_id) as follower:
            yield follower

    def _redis_client(self) -> "redis.Redis":
        if self._redis is None:
            url = self._redis_url or endpoints.redis_url(self.settings)
            self._redis = keyspace.connect(url, connect_timeout_seconds=1.0, socket_timeout_seconds=1.0, retries=0)
        return self._redis

    def _app(self) -> Any:
        if self._celery is None:
            self._celery = broker.make_app(self.settings, self._redis_url or endpoints.redis_url(self.settings))
        return self._celery

    def _accept(self, request: RunRequest) -> UUID:
        """Commit the request; after a commit whose reply is lost, once more: a run of this id is made once."""
        try:
            return self._accept_once(request)
        except _ReplyLost as lost:
            try:
                return self._accept_once(request)
            except Unavailable:
                raise lost from None

    def _accept_once(self, request: RunRequest) -> UUID:
        installed = procedural.load_roles(self.settings.roles).values()
        is_committing = False
        try:
            with self.session() as session:
                accepted = runs.accept(session, self.tenant, request, installed)
                is_committing = True
        except Unavailable as error:
            if not is_committing:
                raise
            raise _ReplyLost(
                f"{error} The run may have been accepted all the same: submit it again with the same idempotency key."
            ) from error
        return accepted

    @contextmanager
    def _imported(self, workspace: str | Path | None, run_id: UUID) -> Iterator[WorkspaceRef | None]:
        """The workspace among the artifacts, removed again when the block raises."""
        if workspace is None:
            yield None
            return
        try:
            imported = self._artifacts.import_repository(str(workspace), run_id=run_id)
        except RepositoryUnreadable as error:
            raise InvalidWorkspace(str(error)) from error
        except StorageFull as error:
            raise Unavailable(str(error)) from error
        try:
            yield WorkspaceRef(
                source=str(imported.top_level or workspace),
                commit=imported.commit,
                uncommitted=imported.uncommitted,
                submodules=imported.submodules,
            )
        except _ReplyLost:
            # The run may be there, and then it needs what was imported for it.
            raise
        except BaseException:
            self._forget_import(run_id)
            raise

    def _forget_import(self, run_id: UUID) -> None:
        shutil.rmtree(self._artifacts.repository(run_id), ignore_errors=True)


def user_name() -> str:
    """The user of this process, as the operating system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that has no name.
        return f"user {os.getuid()}"


def _replans(wanted: int | None, settings: Settings, *, has_plan: bool) -> int:
    if wanted is None:
        return 0 if has_plan else settings.replans
    if not 0 <= wanted <= MAX_REPLANS:
        raise UserError(f"replans is {wanted}; give 0 to {MAX_REPLANS}.")
    return wanted


class _ReplyLost(Unavailable):
    """Postgres broke off at the commit of a request: nobody knows whether the run was made."""


class RunHandle:
    """One run of a client."""

    def __init__(self, client: Client, run_id: UUID) -> None:
        """A handle does not ask whether the run exists yet: a submission may still wait for its transaction."""
        self._client = client
        self.run_id = run_id

    def __repr__(self) -> str:
        """The id, for logs."""
        return f"RunHandle({self.run_id})"

    def status(self) -> RunView:
        """The run now; raises `NotFound`."""
        with self._client.session() as session:
            return views.view_run(session, self.run_id)

    def steps(self) -> list[StepView]:
        """Its steps now, in plan order."""
        with self._client.session() as session:
            return views.view_steps(session, self.run_id)

    def events(self, *, follow: bool = True, timeout_seconds: float | None = None) -> Iterator[Event]:
        """Its facts as they come, each stream in its order, until the run has ended (or those there are now)."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        seen: dict[UUID, int] = {}
        with self._client.follower(self.run_id) as follower:
            while True:
                # Asked before the rows are read: what an ended run still writes is then not missed.
                ended = self._has_ended()
                with self._client.session() as session:
                    events = views.events_after(session, self.run_id, seen)
                for event in events:
                    seen[event.step_id or RUN_STREAM] = event.seq
                    yield event
                if not follow or (ended and not events):
                    return
                if deadline is not None and time.monotonic() > deadline:
                    raise WaitTimeout(f"Run {self.run_id} had not ended after {timeout_seconds} s; it goes on.")
                follower.wait()

    def wait(self, timeout_seconds: float | None = None) -> JsonValue:
        """Wait for the end and give the result.

        Raises `RunFailed`, `RunCancelled`, or `WaitTimeout` (the run goes on).
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._client.follower(self.run_id) as follower:
            while not self._has_ended():
                if deadline is not None and time.monotonic() > deadline:
                    raise WaitTimeout(f"Run {self.run_id} had not ended after {timeout_seconds} s; it goes on.")
                follower.wait()
        return self.result()

    def result(self) -> JsonValue:
        """What the final step gave, or a mapping by key of several; raises as `wait` does, without waiting."""
        view = self.status()
        if view.status == "cancelled":
            raise RunCancelled(f"Run {self.run_id} was cancelled: {view.reason}.")
        if view.status == "failed":
            raise RunFailed(f"Run {self.run_id} failed: {view.reason}.")
        if view.status not in RUN_ENDINGS:
            raise WaitTimeout(f"Run {self.run_id} is {view.status}; wait for its end.")
        with self._client.session() as session:
            return views.result_of(session, self.run_id)

    def costs(self, *, as_claude: bool = False) -> RunCosts:
        """Where its money went, and what caching and routing saved; `as_claude`: at Claude's prices, by tier."""
        with self._client.session() as session:
            return charges.of_run(session, self.run_id, self._client.settings, as_claude=as_claude)

    def artifacts(self) -> dict[str, str]:
        """name → content hash of what its steps kept."""
        with self._client.session() as session:
            return views.artifacts(session, self.run_id)

    def artifact(self, name: str) -> bytes:
        """One of them, for example `report.md`; raises `NotFound`."""
        named = self.artifacts()
        if name not in named:
            known = ", ".join(sorted(named)) or "none"
            raise NotFound(f"Run {self.run_id} kept no {name!r}; it kept: {known}.")
        return self._client.artifact(named[name])

    def cancel(self, reason: str = "cancelled by its owner") -> bool:
        """End it now; False when it had ended already."""
        with self._client.session() as session:
            done = runs.cancel(session, self._client.tenant, self.run_id, reason=reason)
        self._client.ring(self.run_id)
        return done

    def pause(self, reason: str = "") -> bool:
        """Start nothing new and stop running steps at their next commit."""
        with self._client.session() as session:
            return runs.pause(session, self._client.tenant, self.run_id, reason=reason)

    def resume(self) -> bool:
        """Let it go on."""
        with self._client.session() as session:
            done = runs.resume(session, self._client.tenant, self.run_id)
        self._client.ring(self.run_id)
        return done

    def raise_budget(self, to_usd: str | Decimal) -> bool:
        """Let it spend this much all in all; what waits for money goes on. False when it may already.

        Raises `UserError` for less than it has, and when it has ended.
        """
        to_microusd = microusd(to_usd)
        with self._client.session() as session:
            done = runs.raise_budget(session, self._client.tenant, self.run_id, to_microusd=to_microusd)
        self._client.ring(self.run_id)
        return done

    def retry(self, step: str) -> tuple[str, ...]:
        """Do a step once more, with all that was built on it; gives the keys of the new steps.

        What they gave before is superseded. Raises `NotFound`, `InvalidPlan`, and `UserError` when the run has ended:
        fork it then.
        """
        with self._client.session() as session:
            added = runs.retry(session, self._client.tenant, self.run_id, step)
        self._client.ring(self.run_id)
        return added

    def tell(self, message: str) -> None:
        """Leave a message for its agents."""
        with self._client.session() as session:
            runs.tell(session, self._client.tenant, self.run_id, check_goal(message))

    def progress(self) -> dict[str, str]:
        """step key → what a running step says it is doing."""
        return self._client.progress(self.run_id)

    def _has_ended(self) -> bool:
        with self._client.session() as session:
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


def _enqueue(connection: CallersConnection, tenant: UUID, request: RunRequest) -> None:
    """Write the submission with the caller's own connection, in the transaction that is open there."""
    if isinstance(connection, Session):
        _enqueue(connection.connection(), tenant, request)
        return
    if isinstance(connection, Connection):
        raw: object = connection.connection.dbapi_connection
        if not isinstance(raw, psycopg.Connection):
            raise InvalidPlan(f"Connection {type(raw).__name__} is not psycopg 3; submit with a psycopg 3 connection.")
        _enqueue(raw, tenant, request)
        return
    with connection.cursor() as cursor:
        # The caller's user is not bound by our row-level security unless it acts as our role; either way this binds
        # no longer than the caller's transaction.
        cursor.execute("SELECT set_config('chargehand.tenant', %s, true)", [str(tenant)])
        cursor.execute(
            "INSERT INTO chargehand.submissions (run, tenant, request, schema_version) VALUES (%s, %s, %s, %s)",
            [request.run_id, tenant, request.model_dump_json(), SCHEMA_VERSION],
        )
