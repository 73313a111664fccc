"""The state of the whole fleet as Postgres has it, in one snapshot: what a scrape reads.

A handful of statements over partial indexes of what is under way: what has ended is never counted, so a scrape does not
grow with history. Where an age needs a look at each row, `MOST_ROWS` rows of the oldest runs are looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from chargehand.orchestrator.supervisor.admit import POOL_SILENCE_SECONDS
from chargehand.orchestrator.telemetry import metrics
from chargehand.orchestrator.telemetry.metrics import Metric

# A scrape that takes longer is given up: it must not add to what makes the database slow.
STATEMENT_TIMEOUT_SECONDS = 4.0
# Rows whose age is looked up one by one.
MOST_ROWS = 1_000

_ROLE = "coalesce(spec->>'role', spec->>'script', spec->>'kind')"
_RUNS = """
SELECT r.status, count(*), coalesce(sum(b.cap_microusd), 0)::float8, coalesce(sum(b.drawn_microusd), 0)::float8
FROM runs r LEFT JOIN budgets b ON b.run = r.id WHERE r.finished_at IS NULL GROUP BY r.status
"""
# A step (`s`) is ready since its newest row, the answer it waited for, or the end of what it waited for, whichever came
# last.
READY_SINCE = """greatest(
        (SELECT at FROM journal j WHERE j.run = s.run AND j.step = s.id AND j.seq = s.head_seq),
        (SELECT sent_at FROM signals g WHERE g.tenant = s.tenant AND g.step = s.id AND g.wait_id = s.wait_id),
        (SELECT max(p.finished_at) FROM edges e JOIN steps p ON p.id = e.predecessor WHERE e.successor = s.id),
        s.run_after, (SELECT created_at FROM runs WHERE runs.id = s.run))"""
_READY_AGES = f"""
SELECT pool, role, max(extract(epoch FROM clock_timestamp() - since))::float8 FROM (
    SELECT s.pool, {_ROLE} AS role, {READY_SINCE} AS since
    FROM steps s WHERE s.status = 'ready' ORDER BY s.run LIMIT {MOST_ROWS}
) AS ready WHERE since < clock_timestamp() GROUP BY 1, 2
"""
_LIVE = f"""
SELECT pool, {_ROLE}, status, count(*), max(extract(epoch FROM clock_timestamp() - queued_at))::float8,
    min(extract(epoch FROM lease_until - clock_timestamp()))::float8,
    count(*) FILTER (WHERE status = 'running' AND lease_until < clock_timestamp())
FROM steps WHERE status IN ('ready', 'queued', 'running') GROUP BY 1, 2, 3
"""
_WAITING = "SELECT coalesce(wait_reason, ''), count(*) FROM steps WHERE status = 'waiting' GROUP BY 1"
# What `chargehand escalations` lists; a question is as old as the row that asks it.
_QUESTIONS = f"""
SELECT wait_reason, max(open), max(extract(epoch FROM clock_timestamp() - asked_at))::float8 FROM (
    SELECT s.wait_reason, count(*) OVER (PARTITION BY s.wait_reason) AS open,
        (SELECT at FROM journal j WHERE j.run = s.run AND j.step = s.id AND j.seq = s.head_seq) AS asked_at
    FROM steps s JOIN runs r ON r.id = s.run
    WHERE s.status = 'waiting' AND r.finished_at IS NULL
      AND (s.wait_reason IN ('human', 'gate') OR s.wait_reason = 'budget' AND s.run_after IS NULL)
    ORDER BY s.run LIMIT {MOST_ROWS}
) AS asked GROUP BY 1
"""
_POOLS = f"""
SELECT pool, count(*), sum(slots) FROM pools
WHERE seen_at > clock_timestamp() - make_interval(secs => {POOL_SILENCE_SECONDS}) GROUP BY pool
"""
_RINGS = "SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - rung_at)), 0)::float8 FROM rings"
_SUBMISSIONS = "SELECT count(*) FROM submissions"

Labels = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The values of one scrape: metric → labels → value."""

    values: Mapping[Metric, Mapping[Labels, float]]

    def of(self, metric: Metric, *labels: str) -> float:
        """One value; 0 where there is nothing to count."""
        return self.values.get(metric, {}).get(labels, 0.0)


def read_fleet(engine: Engine, *, lease_seconds: float) -> Snapshot:
    """What is under way, all tenants together, as of one moment.

    `engine` acts as the supervisors' role. Raises what SQLAlchemy raises when Postgres does not answer in
    `STATEMENT_TIMEOUT_SECONDS`.
    """
    values: dict[Metric, dict[Labels, float]] = {
        metric: {} for metric in metrics.ALL if metric.source == "postgres" and metric.labels
    }
    with engine.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(STATEMENT_TIMEOUT_SECONDS * 1000)}")
        _read_runs(connection, values)
        _read_steps(connection, values, lease_seconds)
        _read_waiting(connection, values)
        for pool, processes, threads in connection.exec_driver_sql(_POOLS):
            values[metrics.POOL_PROCESSES][(pool,)] = processes
            values[metrics.POOL_THREADS][(pool,)] = threads
        rings, age = connection.exec_driver_sql(_RINGS).one()
        values[metrics.RINGS], values[metrics.RING_AGE] = {(): rings}, {(): age}
        values[metrics.SUBMISSIONS] = {(): connection.exec_driver_sql(_SUBMISSIONS).scalar_one()}
        connection.rollback()
    return Snapshot(values=values)


def _read_runs(connection: Connection, values: dict[Metric, dict[Labels, float]]) -> None:
    cap = drawn = 0.0
    # An empty fleet is a zero, not a gap.
    values[metrics.RUNS] = {(status,): 0.0 for status in ("queued", "running", "paused")}
    for status, count, some_cap, some_drawn in connection.exec_driver_sql(_RUNS):
        values[metrics.RUNS][(status,)] = count
        cap, drawn = cap + some_cap, drawn + some_drawn
    values[metrics.BUDGET_CAP], values[metrics.BUDGET_DRAWN] = {(): cap}, {(): drawn}


def _read_steps(connection: Connection, values: dict[Metric, dict[Labels, float]], lease_seconds: float) -> None:
    ages = values[metrics.QUEUE_AGE]

    def older(labels: Labels, age: Any) -> None:
        ages[labels] = max(ages.get(labels, 0.0), float(age or 0.0))

    for pool, role, status, count, queued, left, expired in connection.exec_driver_sql(_LIVE):
        if status != "running":
            values[metrics.QUEUE_STEPS][(pool, role, status)] = count
            if status == "queued":
                older((pool, role), queued)
            continue
        values[metrics.RUNNING_STEPS][(pool, role)] = count
        leases, expirations = values[metrics.LEASE_AGE], values[metrics.EXPIRED_LEASES]
        leases[(pool,)] = max(leases.get((pool,), 0.0), lease_seconds - float(left))
        expirations[(pool,)] = expirations.get((pool,), 0.0) + expired
    for pool, role, age in connection.exec_driver_sql(_READY_AGES):
        older((pool, role), age)


def _read_waiting(connection: Connection, values: dict[Metric, dict[Labels, float]]) -> None:
    for reason, count in connection.exec_driver_sql(_WAITING):
        values[metrics.WAITING_STEPS][(reason,)] = count
    # Zero when nobody is asked: an alert on its absence would never end.
    for reason in ("human", "gate", "budget"):
        values[metrics.ESCALATIONS][(reason,)] = values[metrics.ESCALATION_AGE][(reason,)] = 0.0
    for reason, count, age in connection.exec_driver_sql(_QUESTIONS):
        values[metrics.ESCALATIONS][(reason,)] = count
        values[metrics.ESCALATION_AGE][(reason,)] = age or 0.0
