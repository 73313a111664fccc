"""Every metric that is exported: its name, its labels, its unit and where it comes from. Pure data.

Dashboards and alert rules use exactly these names (`tests/unit/orchestrator/test_telemetry_names.py`).
Labels have few values: pools, roles, models, tools and reasons, never a run or a step.
"""

from dataclasses import dataclass
from typing import Literal

# Steps may take a second or a night.
LONG_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
# A model or a tool answers within minutes or is given up.
CALL_SECONDS = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
PUBLISH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric as it is exported."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    source: Literal["postgres", "process"]
    """Read from Postgres for the whole fleet at each scrape, or counted by the process in which it happens."""
    buckets: tuple[float, ...] = ()
    """Of a histogram: upper bounds, in seconds."""


def _of_fleet(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="gauge", help=text, labels=labels, source="postgres")


def _count(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind="counter", help=text, labels=labels, source="process")


def _seconds(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(name=name, kind="histogram", help=text, labels=labels, source="process", buckets=buckets)


DATABASE_UP = _of_fleet("chargehand_database_up", "Whether Postgres answered this scrape (1) or not (0).")
FLEET_READ_SECONDS = _of_fleet("chargehand_fleet_read_seconds", "How long Postgres took to answer this scrape.")
RUNS = _of_fleet("chargehand_runs", "Runs under way.", "status")
BUDGET_CAP = _of_fleet("chargehand_budget_cap_microusd", "What the runs under way may spend, in micro-dollars.")
BUDGET_DRAWN = _of_fleet("chargehand_budget_drawn_microusd", "What their steps have drawn of it, in micro-dollars.")
QUEUE_STEPS = _of_fleet(
    "chargehand_queue_steps", "Steps that wait for a worker: ready, or queued.", "pool", "role", "status"
)
QUEUE_AGE = _of_fleet(
    "chargehand_queue_oldest_age_seconds", "For how long the oldest of them has waited.", "pool", "role"
)
RUNNING_STEPS = _of_fleet("chargehand_running_steps", "Steps that a worker holds.", "pool", "role")
LEASE_AGE = _of_fleet(
    "chargehand_lease_age_seconds", "Since the lease that was renewed longest ago was renewed.", "pool"
)
EXPIRED_LEASES = _of_fleet("chargehand_expired_leases", "Leases that have run out and were not taken over.", "pool")
WAITING_STEPS = _of_fleet("chargehand_waiting_steps", "Steps that wait and hold no worker.", "reason")
ESCALATIONS = _of_fleet("chargehand_escalations_open", "Questions that wait for a person.", "reason")
ESCALATION_AGE = _of_fleet(
    "chargehand_escalation_oldest_age_seconds", "For how long the oldest of them has been open.", "reason"
)
POOL_PROCESSES = _of_fleet("chargehand_pool_processes", "Worker processes that live.", "pool")
POOL_THREADS = _of_fleet("chargehand_pool_threads", "Steps that they can run at once.", "pool")
RINGS = _of_fleet("chargehand_rings", "Changes that no supervisor has looked at yet.")
RING_AGE = _of_fleet("chargehand_ring_oldest_age_seconds", "For how long the oldest of them has waited.")
SUBMISSIONS = _of_fleet("chargehand_submissions", "Runs that were asked for and not made yet.")

STEP_PHASE = _seconds(
    "chargehand_step_phase_seconds",
    "How long a step was queued, running or waiting, each time it was.",
    "phase",
    "pool",
    "role",
    buckets=LONG_SECONDS,
)
STEPS_FINISHED = _count("chargehand_steps_finished_total", "Steps that workers have ended.", "pool", "role", "outcome")
RUNS_FINISHED = _count("chargehand_runs_finished_total", "Runs that ended.", "outcome")
TURNS = _count("chargehand_turns_total", "Answers of models.", "pool", "role", "model")
TOKENS = _count(
    "chargehand_tokens_total", "Tokens as servers count them: input, output, cache_write, cache_read.", "model", "kind"
)
COST = _count("chargehand_cost_microusd_total", "What calls of models have cost, in micro-dollars.", "role", "model")
MODEL_CALL = _seconds("chargehand_model_call_seconds", "How long models took to answer.", "model", buckets=CALL_SECONDS)
MODEL_FAILURES = _count("chargehand_model_failures_total", "Calls of models without a usable answer.", "retryable")
TOOL_CALL = _seconds("chargehand_tool_call_seconds", "How long tools took.", "tool", "outcome", buckets=CALL_SECONDS)
BREAKER_TRIPS = _count("chargehand_breaker_trips_total", "Loops, and costs above plan, put before a person.", "rule")
BUDGET_REFUSALS = _count(
    "chargehand_budget_refusals_total", "Calls that did not fit: `exceeded` for good, or `busy`.", "kind"
)
RECOVERIES = _count("chargehand_recoveries_total", "Steps taken up again after their worker was lost.", "cause")
MESSAGES_LOST = _count("chargehand_messages_lost_total", "Steps sent again because nobody claimed their message.")
PUBLISH = _seconds(
    "chargehand_publish_seconds",
    "How long the broker took to take the messages of one run.",
    "outcome",
    buckets=PUBLISH_SECONDS,
)

ALL: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
