"""The one statement that makes a run: its row, plan, budget, first fact and ring, or nothing of it.

A busy server runs it two hundred times a second, so it is one round trip; a transaction of somebody else runs the same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg

from chargehand.memory import procedural
from chargehand.memory.procedural import Role
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.connections import Connections
from chargehand.orchestrator.errors import InvalidPlan
from chargehand.orchestrator.facts import SCHEMA_VERSION, RunSubmitted
from chargehand.orchestrator.plan import Step, step_id, validate
from chargehand.orchestrator.requests import RunRequest

# `pinned` looks at what was committed before: whoever finds too few pins the roles first, in an earlier statement.
ACCEPT = """
WITH pinned AS (
    SELECT count(*) AS known FROM role_versions
    WHERE tenant = %(tenant)s::uuid AND hash = ANY (%(role_hashes)s::text[])
), made AS (
    INSERT INTO runs (id, tenant, status, goal, priority, head_seq, schema_version, idempotency_key, concurrency_key,
        conversation_id, consolidate_microusd, tier, model, workspace, role_versions, deadline_at)
    SELECT %(run)s::uuid, %(tenant)s::uuid, %(status)s::text, %(goal)s::text, %(priority)s::int, 1, %(version)s::int,
        %(idempotency_key)s::text, %(concurrency_key)s::text, %(conversation_id)s::text,
        %(consolidate_microusd)s::bigint, %(tier)s::text, %(model)s::text, %(workspace)s::jsonb,
        %(role_versions)s::jsonb, clock_timestamp() + make_interval(secs => %(deadline_seconds)s::float8)
    FROM pinned WHERE pinned.known = %(role_count)s::int
    ON CONFLICT DO NOTHING
    RETURNING id, tenant
), purse AS (
    INSERT INTO budgets (run, tenant, cap_microusd, on_exceeded, max_calls, max_tokens, allotted_microusd)
    SELECT made.id, made.tenant, %(budget_microusd)s::bigint, %(on_budget)s::text, %(max_calls)s::bigint,
        %(max_tokens)s::bigint, (SELECT 0 FROM tenant_budgets WHERE tenant = %(tenant)s::uuid)
    FROM made
), planned AS (
    INSERT INTO steps (id, run, tenant, key, ordinal, pool, spec, schema_version)
    SELECT step.id, made.id, made.tenant, step.key, step.position - 1, step.pool, step.spec::jsonb, %(version)s::int
    FROM made, unnest(%(step_ids)s::uuid[], %(step_keys)s::text[], %(step_pools)s::text[], %(step_specs)s::text[])
        WITH ORDINALITY AS step(id, key, pool, spec, position)
    ORDER BY step.position
), joined AS (
    INSERT INTO edges (predecessor, successor, run, tenant)
    SELECT edge.predecessor, edge.successor, made.id, made.tenant
    FROM made, unnest(%(predecessors)s::uuid[], %(successors)s::uuid[]) AS edge(predecessor, successor)
), told AS (
    INSERT INTO journal (tenant, run, step, seq, kind, schema_version, epoch, body)
    SELECT made.tenant, made.id, %(stream)s::uuid, 1, %(kind)s::text, %(version)s::int, 0, %(body)s::text FROM made
), rung AS (
    INSERT INTO rings (tenant, run) SELECT made.tenant, made.id FROM made
)
SELECT (SELECT made.id FROM made) AS run, pinned.known FROM pinned
"""


def accept_at_once(
    connections: Connections, tenant: UUID, request: RunRequest, installed: Iterable[Role]
) -> UUID | None:
    """Make the run in one round trip and give its id; None: nothing was written, `runs.accept` finds out why.

    For requests that need to know nothing first: of no concurrency key and no conversation. Raises `InvalidPlan`,
    `ReplyLost` when nobody knows whether the run was made, and `Unavailable`.
    """
    roles = roles_of(request, installed)
    validate(request.plan, roles=roles.keys())
    try:
        row = connections.run(tenant, ACCEPT, parameters(tenant, request, roles))
    except psycopg.Error:
        # A lock that somebody holds too long, a text that Postgres cannot hold: told by whoever asks again.
        return None
    return None if row is None else row["run"]


def needs_nothing_first(request: RunRequest) -> bool:
    """Whether `accept_at_once` may be asked."""
    return request.concurrency_key is None and request.conversation_id is None


def roles_of(request: RunRequest, installed: Iterable[Role]) -> dict[str, Role]:
    """Every role that the run may use, by name; raises `InvalidRole`."""
    roles = {role.name: role for role in installed}
    for name, written in request.role_texts.items():
        roles[name] = procedural.parse_role(written, origin=f"role {name!r} of the request")
    return roles


def parameters(
    tenant: UUID, request: RunRequest, roles: Mapping[str, Role], *, continues: tuple[UUID, ...] = ()
) -> dict[str, Any]:
    """What the statement is given; `roles` are those of the run, `continues` the earlier runs of its conversation."""
    versions = {role.name: role.blob_hash for role in sorted(roles.values(), key=lambda role: role.blob_hash)}
    hashes = sorted(set(versions.values()))
    fact = submitted(request, versions, continues)
    steps = in_order(request.plan.steps)
    ids = {step.key: step_id(request.run_id, step.key) for step in steps}
    edges = [(ids[before], ids[step.key]) for step in steps for before in step.after]
    return {
        "run": request.run_id,
        "tenant": tenant,
        "status": "running" if request.concurrency_key is None else "queued",
        "goal": request.goal,
        "priority": request.priority,
        "version": SCHEMA_VERSION,
        "idempotency_key": request.idempotency_key,
        "concurrency_key": request.concurrency_key,
        "conversation_id": request.conversation_id,
        "consolidate_microusd": request.consolidate_microusd,
        "tier": request.tier,
        "model": request.model,
        "workspace": request.workspace.model_dump_json() if request.workspace else None,
        "role_versions": json.dumps(versions),
        "role_hashes": hashes,
        "role_count": len(hashes),
        "deadline_seconds": request.deadline_seconds,
        "budget_microusd": request.budget_microusd,
        "on_budget": request.on_budget,
        "max_calls": request.max_calls,
        "max_tokens": request.max_tokens,
        "step_ids": [ids[step.key] for step in steps],
        "step_keys": [step.key for step in steps],
        "step_pools": [step.pool for step in steps],
        "step_specs": [step.model_dump_json() for step in steps],
        "predecessors": [before for before, _ in edges],
        "successors": [after for _, after in edges],
        "stream": RUN_STREAM,
        "kind": fact.kind,
        "body": fact.model_dump_json().replace("\x00", ""),
    }


def submitted(request: RunRequest, versions: Mapping[str, str], continues: tuple[UUID, ...]) -> RunSubmitted:
    """The first fact of the run."""
    return RunSubmitted(
        goal=request.goal,
        plan=request.plan,
        workspace=request.workspace,
        budget_microusd=request.budget_microusd,
        priority=request.priority,
        idempotency_key=request.idempotency_key,
        role_versions=dict(versions),
        deadline_seconds=request.deadline_seconds,
        conversation_id=request.conversation_id,
        continues=continues,
        concurrency_key=request.concurrency_key,
        tier=request.tier,
        model=request.model,
        replans=request.replans,
        on_budget=request.on_budget,
        max_calls=request.max_calls,
        max_tokens=request.max_tokens,
        traceparent=request.traceparent,
    )


def in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps in topological order among themselves; raises `InvalidPlan`."""
    placed: set[str] = set()
    own = {step.key for step in steps}
    ordered: list[Step] = []
    waiting = list(steps)
    while waiting:
        free = [step for step in waiting if all(key in placed or key not in own for key in step.after)]
        if not free:
            raise InvalidPlan(f"Steps wait for each other: {', '.join(step.key for step in waiting)}.")
        ordered.extend(free)
        placed |= {step.key for step in free}
        waiting = [step for step in waiting if step.key not in placed]
    return ordered
