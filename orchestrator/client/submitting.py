"""How a request becomes a run: checked, its workspace imported, committed, and asked for again when in doubt."""

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from chargehand.memory.artifacts import RepositoryUnreadable
from chargehand.memory.git import StorageFull
from chargehand.memory.procedural import Role
from chargehand.orchestrator import accepting, consolidating, runs
from chargehand.orchestrator.building import Plan as WrittenPlan
from chargehand.orchestrator.client.services import Services
from chargehand.orchestrator.errors import InvalidPlan, InvalidWorkspace, ReplyLost, Unavailable, UserError
from chargehand.orchestrator.facts import SCHEMA_VERSION, OnBudget, OnConflict, WorkspaceRef
from chargehand.orchestrator.plan import Plan, validate
from chargehand.orchestrator.requests import (
    MAX_REPLANS,
    RunRequest,
    check_concurrency,
    check_conversation,
    check_count,
    check_goal,
    check_model,
    check_on_budget,
    check_plan,
    goal_plan,
    microusd,
)
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.telemetry.following import callers_traceparent

CallersConnection = psycopg.Connection[Any] | Connection | Session


def submit(
    services: Services,
    tenant: UUID,
    *,
    goal: str,
    plan: Plan | None,
    workspace: str | Path | None,
    budget_usd: str | Decimal | None,
    idempotency_key: str | None,
    priority: int,
    deadline_seconds: float | None,
    conversation_id: str | None,
    connection: CallersConnection | None,
    roles: Iterable[Role],
    concurrency_key: str | None,
    on_conflict: OnConflict,
    replans: int | None,
    on_budget: OnBudget = "fail",
    max_calls: int | None = None,
    max_tokens: int | None = None,
    consolidate_usd: str | Decimal | None = None,
    tier: str | None = None,
    model: str | None = None,
) -> UUID:
    """The id of the run, see `Client.submit`; a supervisor is told, unless the caller's transaction is to commit it."""
    settings = services.settings
    check_plan(plan)
    goal = check_goal(goal) if plan is None else goal.strip()
    chosen = plan or goal_plan(with_workspace=workspace is not None)
    written = chosen.roles if isinstance(chosen, WrittenPlan) else ()
    brought = {role.name: role for role in (*written, *roles)}
    installed = services.installed_roles()
    validate(chosen, roles=installed.keys() | brought.keys())
    budget = microusd(budget_usd if budget_usd is not None else settings.default_budget_usd)
    named_tier, named_model = check_model(tier, model)
    run_id = runs.new_run_id()
    key = check_concurrency(concurrency_key, on_conflict)
    with _imported(services, workspace, run_id) as reference:
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
            tier=named_tier,
            model=named_model,
            replans=replans_of(replans, settings, has_plan=plan is not None),
            on_budget=check_on_budget(on_budget),
            max_calls=check_count("max_calls", max_calls),
            max_tokens=check_count("max_tokens", max_tokens),
            consolidate_microusd=consolidating.budget_of(consolidate_usd, settings),
            traceparent=callers_traceparent(),
        )
        if connection is not None:
            _enqueue(connection, tenant, request)
            return run_id
        accepted = _accept(services, tenant, request, installed.values())
    if accepted != run_id:
        _forget_import(services, run_id)
    services.ring(accepted)
    return accepted


def _accept(services: Services, tenant: UUID, request: RunRequest, installed: Collection[Role]) -> UUID:
    """Commit the request; after a commit whose reply is lost, once more: a run of this id is made once."""
    try:
        return _accept_once(services, tenant, request, installed)
    except ReplyLost as lost:
        try:
            return _accept_with_session(services, tenant, request, installed)
        except Unavailable:
            raise ReplyLost(
                f"{lost} The run may have been accepted all the same: submit it again with the same idempotency key."
            ) from lost


def _accept_once(services: Services, tenant: UUID, request: RunRequest, installed: Collection[Role]) -> UUID:
    if services.connections is not None and accepting.needs_nothing_first(request):
        made = accepting.accept_at_once(services.connections, tenant, request, installed)
        if made is not None:
            return made
    return _accept_with_session(services, tenant, request, installed)


def _accept_with_session(services: Services, tenant: UUID, request: RunRequest, installed: Collection[Role]) -> UUID:
    is_committing = False
    try:
        with services.session(tenant) as session:
            accepted = runs.accept(session, tenant, request, installed)
            is_committing = True
    except Unavailable as error:
        if not is_committing:
            raise
        raise ReplyLost(str(error)) from error
    return accepted


@contextmanager
def _imported(services: Services, workspace: str | Path | None, run_id: UUID) -> Iterator[WorkspaceRef | None]:
    """The workspace among the artifacts, removed again when the block raises."""
    if workspace is None:
        yield None
        return
    try:
        imported = services.artifacts.import_repository(str(workspace), run_id=run_id)
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
    except ReplyLost:
        # The run may be there, and then it needs what was imported for it.
        raise
    except BaseException:
        _forget_import(services, run_id)
        raise


def _forget_import(services: Services, run_id: UUID) -> None:
    shutil.rmtree(services.artifacts.repository(run_id), ignore_errors=True)


def replans_of(wanted: int | None, settings: Settings, *, has_plan: bool) -> int:
    """How often the plan may be changed; raises `UserError`."""
    if wanted is None:
        return 0 if has_plan else settings.replans
    if not 0 <= wanted <= MAX_REPLANS:
        raise UserError(f"replans is {wanted}; give 0 to {MAX_REPLANS}.")
    return wanted


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
