"""Cancel, pause, resume, deadlines, answers and words to a run, all at once, from several clients, while it works.

Each small run has several people at it who do at random what people may do at any time. In the end it has ended once,
every call has told the truth about what it did, and nobody got into anybody's way.
"""

import os
import random
import time
from collections import Counter as Tally
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from chaos.checker import judge
from chaos.errands import RUNNER
from chaos.evidence import gather
from chaos.machine import Fleet, Machine, until
from chaos.plans import counted
from system.streams import errands

from chargehand.orchestrator import verification
from chargehand.orchestrator.auditkey import audit_key
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.facts import (
    RunFinished,
    RunPaused,
    RunResumed,
    RunTold,
    SignalReceived,
    StepClaimed,
    StepFinished,
    StepWaiting,
)
from chargehand.orchestrator.plan import Plan, Step
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import Escalation

pytestmark = [pytest.mark.system, pytest.mark.long]

WAIT_SECONDS = 90.0
# Five people at each of forty runs: two hundred sequences of acts. `make chaos` races two hundred runs.
RUNS = int(os.environ.get("RACES_RUNS", "40"))
PEOPLE = 5
# Three clients have thirty connections.
AT_ONCE = 5
ACTS = 8
LONGEST_PAUSE_SECONDS = 0.15
CANCELLED = 0.4
# Some only look at a question.
ANSWERED = 0.7
DEADLINES_SECONDS = (None, None, None, None, 1.0, 2.5)


@pytest.fixture(scope="module")
def fleet():
    return Fleet(pools=("audit",), twins=("supervisor", "audit"), call_seconds=0.05, forged=True)


@dataclass(kw_only=True)
class Told:
    """What the calls on one run have given."""

    cancelled: list[bool] = field(default_factory=list)
    paused: list[bool] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    """Messages that were accepted."""
    answers: list[tuple[UUID, str, bool]] = field(default_factory=list)
    """wait, choice, and whether it was the first."""


class Person:
    """Does at random, to one run, what people may do at any time."""

    def __init__(self, client: Client, run: RunHandle, told: Told, seed: str, *, cancels: bool) -> None:
        self._run = client.run(run.run_id)
        self._client, self._told = client, told
        self._cancels = cancels
        self._chance = random.Random(seed)
        self._seed = seed
        self._seen: list[Escalation] = []

    def act(self) -> None:
        """Some acts with pauses between them."""
        acts: dict[Callable[[], None], int] = {
            self.answer: 8,
            self.pause: 3,
            self.resume: 5,
            self.tell: 3,
            self.cancel: int(self._cancels),
        }
        for _ in range(ACTS):
            time.sleep(self._chance.uniform(0, LONGEST_PAUSE_SECONDS))
            [act] = self._chance.choices([*acts], weights=[*acts.values()])
            act()

    def answer(self) -> None:
        for asked in self._client.escalations(self._run.run_id):
            self._seen.append(asked)
            if self._chance.random() < ANSWERED:
                self.decide(asked, self._chance.choice([*asked.options, *asked.options[:1] * 3]))

    def decide(self, asked: Escalation, choice: str) -> None:
        first = self._client.answer(asked, choice, {"done": 0} if choice == "override" else None)
        self._told.answers.append((asked.wait_id, choice, first))

    def pause(self) -> None:
        self._told.paused.append(self._run.pause())

    def resume(self) -> None:
        self._told.resumed.append(self._run.resume())

    def cancel(self) -> None:
        self._told.cancelled.append(self._run.cancel())

    def tell(self) -> None:
        message = f"{self._seed}, {len(self._told.heard)}"
        try:
            self._run.tell(message)
        except UserError:
            return
        self._told.heard.append(message)

    def come_too_late(self) -> None:
        """Answer what was asked before the end, and stop what has ended."""
        for asked in self._seen:
            self.decide(asked, asked.options[0])
        self.cancel()
        self.pause()
        self.resume()
        self.tell()

    def see_it_through(self) -> None:
        """Do what a run needs to come to its end, until it has."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (status := self._run.status().status) not in RUN_ENDINGS:
            assert time.monotonic() < deadline, f"{self._run} is {status}: {self._run.steps()}"
            if status == "paused":
                self.resume()
            for asked in self._client.escalations(self._run.run_id):
                self.decide(asked, asked.options[0])
            time.sleep(LONGEST_PAUSE_SECONDS)


def small_plan(chance: random.Random) -> Plan:
    """Two lines and an agent that has to ask, in front of a gate; a step with a deadline of its own here and there."""
    deadline_seconds = chance.choice(DEADLINES_SECONDS)
    slow = counted("slow", "start", seconds=0.6).model_copy(update={"deadline_seconds": deadline_seconds})
    return Plan.of(
        [
            counted("start", seconds=chance.choice((0.0, 0.2))),
            slow,
            counted("behind", "slow"),
            errands("ask", "start", errands=["post"], seconds=0.05, max_turns=1),
            Step(key="gate", kind="gate", after=("start",), instruction="Go on?"),
            counted("end", "behind", "gate"),
        ]
    )


def race(laptop: Machine, clients: list[Client], number: int, seed: str) -> tuple[RunHandle, Told]:
    """One run and its people."""
    chance = random.Random(f"{seed}/{number}")
    told = Told()
    run = clients[number % len(clients)].submit(
        "Race", plan=small_plan(chance), roles=[RUNNER], deadline_seconds=chance.choice(DEADLINES_SECONDS)
    )
    # Of a cancelled run there is little to see.
    cancels = chance.random() < CANCELLED
    people = [
        Person(clients[one % len(clients)], run, told, f"{seed}/{number}/{one}", cancels=cancels)
        for one in range(PEOPLE)
    ]
    with ThreadPoolExecutor(PEOPLE) as pool:
        for acted in [pool.submit(person.act) for person in people]:
            acted.result()
    people[0].see_it_through()
    for person in people:
        person.come_too_late()
    return run, told


def facts_by_stream(run: RunHandle) -> dict[UUID | None, list[object]]:
    streams: dict[UUID | None, list[object]] = {}
    for event in sorted(run.events(follow=False), key=lambda event: event.seq):
        streams.setdefault(event.step_id, []).append(event.fact)
    return streams


def lies(run: RunHandle, told: Told) -> list[str]:
    """Where what the calls gave is not what the journal says."""
    view = run.status()
    streams = facts_by_stream(run)
    own = streams[None]
    counted_kinds = Tally(type(fact) for fact in own)
    found = []
    if counted_kinds[RunFinished] != 1:
        found.append(f"{counted_kinds[RunFinished]} ends")
    if sum(told.cancelled) != (view.status == "cancelled"):
        found.append(f"{view.status}, and cancel gave {told.cancelled}")
    for kind, given in ((RunPaused, told.paused), (RunResumed, told.resumed)):
        if counted_kinds[kind] != sum(given):
            found.append(f"{counted_kinds[kind]} of {kind.__name__}, and the calls gave {given}")
    switches = [type(fact) for fact in own if isinstance(fact, RunPaused | RunResumed)]
    if switches != [RunPaused, RunResumed] * (len(switches) // 2) + [RunPaused] * (len(switches) % 2):
        found.append(f"paused and resumed out of turn: {switches}")
    if sorted(fact.message for fact in own if isinstance(fact, RunTold)) != sorted(told.heard):
        found.append("what was told is not what was accepted")
    for wait_id in {wait for wait, _, _ in told.answers}:
        won = [choice for wait, choice, first in told.answers if wait == wait_id and first]
        # Nobody is the first to answer a question whose step has ended before anybody did.
        if len(won) > 1 or (not won and not _ended_by_others(streams, wait_id)):
            found.append(f"{len(won)} first answers to {wait_id}")
        for facts in streams.values():
            taken = [fact.choice for fact in facts if isinstance(fact, SignalReceived) and fact.wait_id == wait_id]
            # One behind a gate that is put before a person once more was claimed, and gives what it is for.
            is_claimed = any(isinstance(fact, StepClaimed) for fact in facts)
            asked = any(isinstance(fact, StepWaiting) and fact.reason == "gate" for fact in facts)
            if taken and asked and not is_claimed:
                done = [f.result["choice"] for f in facts if isinstance(f, StepFinished) and f.outcome != "cancelled"]
                if done != taken:
                    found.append(f"{taken} was received, and {done} was done")
            if taken not in ([], won):
                found.append(f"{won} was first, and {taken} was done")
    return [f"run {run.run_id}: {one}" for one in found]


def _ended_by_others(streams: dict[UUID | None, list[object]], wait_id: UUID) -> bool:
    """Whether a cancel or a deadline has ended the step while it asked this."""
    for facts in streams.values():
        if any(isinstance(fact, StepWaiting) and fact.wait_id == wait_id for fact in facts):
            last = facts[-1]
            return isinstance(last, StepFinished) and last.outcome != "succeeded"
    return False


def test_runs_that_everybody_interferes_with_end_once_and_every_call_tells_the_truth(laptop):
    seed = os.environ.get("RACES_SEED", "1")
    endpoints = laptop.laptop.services.endpoints
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(endpoints.database_url, endpoints.redis_url, settings=laptop.settings))
            for _ in range(3)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        raced = [*pool.map(lambda number: race(laptop, clients, number, seed), range(RUNS))]
        accepted = [run.run_id for run, _ in raced]
        evidence = gather(
            endpoints.database_url,
            laptop.ledger,
            accepted=accepted,
            audit_key=audit_key(laptop.settings),
            lease_seconds=laptop.settings.lease_seconds,
            max_crashes=laptop.settings.max_crashes,
        )
        endings = {run.status().status for run, _ in raced}
        assert [lie for run, told in raced for lie in lies(run, told)] == []
        assert judge(evidence) == []
        with laptop.client.session() as session:
            for run_id in accepted:
                assert verification.drift(session, run_id) == []
                assert verification.verify_run(session, run_id).objections == ()

    # All of it happened, and to no run all of it.
    assert endings == RUN_ENDINGS
    for calls in ("cancelled", "paused", "resumed"):
        assert {given for _, told in raced for given in getattr(told, calls)} == {True, False}
    assert {first for _, told in raced for _, _, first in told.answers} == {True, False}
    # Nobody waited for anybody in a circle, and nothing surprised a process.
    until(lambda: not laptop.missing(), WAIT_SECONDS, "all processes are up")
    for name in (*(spec.name for spec in laptop.specs), "postgres"):
        said = laptop.log(name)
        assert "Traceback" not in said, name
        assert "deadlock" not in said.lower(), name
