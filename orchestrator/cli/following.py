"""Following a run: look at it again and again until it has ended, whatever shows it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import func, select

from chargehand.orchestrator.cli.terminal import one_line, short
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import Unavailable, WaitTimeout
from chargehand.orchestrator.supervisor.admit import live_slots
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import RunView, StepView

# Four looks a second feel alive and cost Postgres about a millisecond each.
LOOK_SECONDS = 0.25
# A restart of Postgres takes a few seconds; one that is away longer is worth an error.
OUTAGE_SECONDS = 60.0
# A worker that has just started says so within a heartbeat.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A run as it was at one moment."""

    run: RunView
    steps: tuple[StepView, ...]
    progress: dict[str, str]
    """step key → newest line of a running step."""
    notes: tuple[str, ...]
    """What the onlooker should know or do, one line each."""
    at: datetime
    """By the clock of Postgres, which also stamps the steps."""


class Screen(Protocol):
    """What shows the looks."""

    def show(self, look: Look) -> None:
        """Show this one instead of, or after, the one before."""

    def say(self, line: str) -> None:
        """Say something that is not of the run's own state."""


def take_look(client: Client, handle: RunHandle) -> Look:
    """The run now."""
    run, steps = handle.status(), tuple(handle.steps())
    with client.session() as session:
        at = session.scalar(select(func.clock_timestamp())) or datetime.now(UTC)
        pools = live_slots(session)
    notes = []
    if run.status == "queued":
        notes.append(f"It waits for its concurrency key; see who has it with: chargehand explain {short(run.run_id)}")
    if run.status == "paused":
        notes.append(f"It is paused; go on with: chargehand resume {short(run.run_id)}")
    if run.status == "running" and not pools and (at - run.created_at).total_seconds() > PATIENCE_SECONDS:
        notes.append("No worker is up, so nothing starts; start them with: chargehand up")
    if any(step.status == "waiting" and step.wait_reason in ("human", "gate", "budget") for step in steps):
        notes += [
            f"{question.step_key} asks: {one_line(question.question, 200)}  Answer with: "
            f"chargehand resolve {short(run.run_id)} {question.step_key} {'|'.join(question.options) or 'TEXT'}"
            + (" --text '…'" if "answer" in question.options else "")
            for question in client.escalations(run.run_id)
        ]
    progress = handle.progress() if run.status not in RUN_ENDINGS else {}
    return Look(run=run, steps=steps, progress=progress, notes=tuple(notes), at=at)


def follow(
    client: Client,
    handle: RunHandle,
    screen: Screen,
    *,
    timeout_seconds: float | None = None,
    looked: Callable[[Look], None] = lambda look: None,
) -> Look:
    """Show the run until it has ended; gives the last look. Raises `WaitTimeout`, and outlives a short outage.

    `looked` is called with each look.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    away_since: float | None = None
    while True:
        try:
            look = take_look(client, handle)
        except Unavailable as error:
            if away_since is None:
                away_since = time.monotonic()
                screen.say(f"{error}; looking again until it is back")
            if time.monotonic() - away_since > OUTAGE_SECONDS:
                raise
        else:
            away_since = None
            screen.show(look)
            looked(look)
            if look.run.status in RUN_ENDINGS:
                return look
        if deadline is not None and time.monotonic() > deadline:
            raise WaitTimeout(
                f"Run {short(handle.run_id)} had not ended after {timeout_seconds:g} s; it goes on: "
                f"chargehand status {short(handle.run_id)} --follow"
            )
        time.sleep(LOOK_SECONDS)
