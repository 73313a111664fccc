"""A kill -9 in the middle of a triage step, and what the journal says of it afterwards."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from chargehand.memory import journal
from chargehand.orchestrator import views
from chargehand.orchestrator.cli.following import Look
from chargehand.orchestrator.cli.terminal import plural
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.facts import (
    ModelRequested,
    ModelResponded,
    StepClaimed,
    StepRecovered,
)
from chargehand.orchestrator.laptop import running_laptop
from chargehand.orchestrator.views import Event, StepView

VICTIMS = "triage-"
# Steps whose results hold findings.
SCANS = ("scan", "secrets")


@dataclass(frozen=True, kw_only=True, slots=True)
class Killed:
    """Who was killed, and over what."""

    step: str
    pool: str
    pid: int
    answers_recorded: int


class Killer:
    """Waits for a triage step with an answer in its journal, and kills the process that holds it, once."""

    def __init__(self, client: Client, handle: RunHandle) -> None:
        """Nothing is killed yet."""
        self._client, self._handle = client, handle
        self.killed: Killed | None = None

    def strike(self, look: Look) -> bool:
        """Kill now if there is something to interrupt; whether it was done."""
        if self.killed is not None:
            return False
        for step in look.steps:
            if not step.key.startswith(VICTIMS) or step.status != "running":
                continue
            recorded = self._answers(step.step_id)
            laptop = running_laptop(self._client.settings.home)
            if recorded and laptop is not None and step.pool in laptop.pids:
                pid = laptop.pids[step.pool]
                os.kill(pid, signal.SIGKILL)
                self.killed = Killed(step=step.key, pool=step.pool, pid=pid, answers_recorded=recorded)
                return True
        return False

    @property
    def story(self) -> str:
        """What was done, for people."""
        if self.killed is None:
            return ""
        lease_seconds = self._client.settings.lease_seconds
        return (
            f"SIGKILL to the {self.killed.pool} worker (pid {self.killed.pid}), which held {self.killed.step} with "
            f"{plural(self.killed.answers_recorded, 'answer')} in its journal; its leases run out within "
            f"{lease_seconds:g} s"
        )

    def _answers(self, step_id: UUID) -> int:
        with self._client.session() as session:
            return len(journal.read(session, self._handle.run_id, step=step_id, kinds=["model.responded"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumption:
    """A step that another claim took over."""

    step: str
    epoch: int
    """Of the claim that went on."""
    answers_before: int
    resumed_at_turn: int | None
    """The first turn that was asked afterwards; None: nothing was left to ask."""
    recorded_answers_asked_again: int

    @property
    def resumed_words(self) -> str:
        """Where it went on, for people."""
        if self.resumed_at_turn is not None:
            return f"resumed at turn {self.resumed_at_turn}"
        # A script asks no model: it begins anew.
        return "ended without a further answer" if self.answers_before else "ran again"


def judge_resumptions(handle: RunHandle) -> tuple[Resumption, ...]:
    """What became of each step whose worker was lost, from the journal alone."""
    events = list(handle.events(follow=False))
    steps: Sequence[StepView] = handle.steps()
    return tuple(
        resumption
        for step in steps
        if (resumption := judge_step(step.key, [event for event in events if event.step_id == step.step_id]))
    )


def judge_step(key: str, events: Sequence[Event]) -> Resumption | None:
    """The last take-over of a step by its stream; None when its first worker was not lost."""
    ordered = sorted(events, key=lambda event: event.seq)
    lost = False
    epochs = 0
    at: int | None = None
    for position, event in enumerate(ordered):
        lost = lost or isinstance(event.fact, StepRecovered)
        if isinstance(event.fact, StepClaimed):
            epochs += 1
            if lost or event.fact.takeover:
                at, lost = position, False
    if at is None:
        return None
    # A summary is asked for before the turn whose number it has.
    turns = [event.fact for event in ordered if isinstance(event.fact, ModelRequested) and not event.fact.summarises]
    turn_of = {fact.call_id: fact.turn for fact in turns}
    before = [event.fact for event in ordered[:at] if isinstance(event.fact, ModelResponded)]
    answered = {turn_of[fact.call_id] for fact in before if fact.call_id in turn_of}
    after = [event.fact for event in ordered[at:]]
    asked = [fact.turn for fact in after if isinstance(fact, ModelRequested) and not fact.summarises]
    return Resumption(
        step=key,
        epoch=epochs,
        answers_before=len(before),
        resumed_at_turn=asked[0] if asked else None,
        recorded_answers_asked_again=sum(turn in answered for turn in asked),
    )


def open_verdicts(client: Client, handle: RunHandle) -> tuple[str, ...]:
    """Ids of findings that no triage step has judged."""
    with client.session() as session:
        ended = {key: fact.result for key, fact in views.results(session, handle.run_id).items()}
    found = {
        str(finding["finding_id"]) for key in SCANS for finding in _listed(ended.get(key), "findings", "finding_id")
    }
    judged = {
        str(verdict["finding_id"])
        for key, result in ended.items()
        if key.startswith(VICTIMS)
        for verdict in _listed(result, "verdicts", "finding_id")
    }
    return tuple(sorted(found - judged))


def _listed(result: object, name: str, needed: str) -> list[dict[str, Any]]:
    items = result.get(name) if isinstance(result, dict) else None
    return [item for item in items or () if isinstance(item, dict) and needed in item]


def sarif_findings(file: Path) -> frozenset[str] | None:
    """The findings in a SARIF file without what differs between two runs; None when there is no such file."""
    try:
        log = json.loads(file.read_bytes())
        results = [result for run in log["runs"] for result in run["results"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return frozenset(
        json.dumps(
            [result.get(name) for name in ("ruleId", "level", "locations", "suppressions", "partialFingerprints")],
            sort_keys=True,
        )
        for result in results
    )
