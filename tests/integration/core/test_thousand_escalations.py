"""A thousand questions, answered at the same time by people, by the clock and through supervisors that are cut off.

None is lost, none is answered twice, none is stuck, and what was done before the question is done once: a step that
waits goes on from its journal. (A graph that is replayed from its beginning does it once for each resume.)
"""

import os
import queue
import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from chargehand.memory.database import SUPERVISOR_ROLE, open_engine
from chargehand.orchestrator.answering import answer
from chargehand.orchestrator.facts import SignalReceived, StepFinished, parse_fact
from chargehand.orchestrator.plan import Expiry, Step, step_id
from chargehand.orchestrator.supervisor import admit, advance, watch
from chargehand.orchestrator.supervisor.graphs import Graphs
from chargehand.orchestrator.supervisor.sounding import Sounding
from chargehand.workers.executor import execute
from chargehand.workers.models.interface import Block, ModelCall
from chargehand.workers.tools.ask_person import ask_person
from chargehand.workers.tools.registry import Tool, ToolContext, ToolRetry, make_tool
from tests.integration.core import agents
from tests.integration.core.conftest import AUDIT_KEY

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

# A thousand take a quiet machine with two cores about a minute: the suite makes do with fewer.
ESCALATIONS = int(os.environ.get("CHARGEHAND_ESCALATIONS", "200"))
STEPS_A_RUN = 50
WORKERS, SUPERVISORS, PEOPLE = 4, 2, 3
DEADLINE_SECONDS = 440
# Connections that are open at such a moment are cut, as by the death of their process.
CUT_SECONDS = (2.0, 5.0)
# Published by a supervisor that died before it could.
LOST_MESSAGES = 0.05
# Of the questions expire, about when people come to answer them.
EXPIRING = 0.3

REPEATS = 3


@dataclass(frozen=True)
class Kind:
    """Why a person is asked, what they may say, and what was done before."""

    turns: int
    """Calls of the model before the question."""
    choices: tuple[str, ...]
    goes_on: frozenset[str] = frozenset()
    """After these the agent makes one more turn."""


KINDS = {
    # A turn that charges, and a last one without tools: then the turns are used up.
    "spent": Kind(turns=2, choices=("override", "skip", "abort")),
    # A turn that charges, and one that asks.
    "asks": Kind(turns=2, choices=("answer", "skip", "abort"), goes_on=frozenset({"answer", "skip"})),
    # A turn that charges, and the same mistake until the breaker trips.
    "errs": Kind(
        turns=1 + REPEATS,
        choices=("retry", "answer", "override", "skip", "abort"),
        goes_on=frozenset({"retry", "answer"}),
    ),
    # Nothing but a person's word.
    "gate": Kind(turns=0, choices=("approve", "reject")),
}
FAILING = frozenset({"abort", "reject"})


class Ledger:
    """What happened outside of the database, which knows nothing of it."""

    def __init__(self) -> None:
        self.charged: Counter[str] = Counter()
        self.called: Counter[str] = Counter()
        self.taken: dict[UUID, list[tuple[str, str]]] = defaultdict(list)
        """wait → who was told that theirs is the answer, and what it was."""
        self.refused = 0
        self.cuts = 0
        self.guard = threading.Lock()

    def tools(self) -> dict[str, Tool]:
        def charge(order: str, context: ToolContext, idempotency_key: str) -> str:
            """Charge a customer."""
            with self.guard:
                self.charged[str(context.step_id)] += 1
            return f"{order} charged under {idempotency_key}"

        def look_up(order: str) -> str:
            """Look an order up."""
            raise ToolRetry(f"Order {order} is not in the books.")

        own = {"charge": make_tool(charge, effect="idempotent"), "look_up": make_tool(look_up, effect="pure")}
        return {**own, "ask_person": ask_person}

    def reply(self, call: ModelCall, turn: int) -> list[Block]:
        """The code before the question: calls of the model, and an effect."""
        with self.guard:
            self.called[call.request_id.split("/")[1]] += 1
        kind, number = re.findall(r"Do (\w+)-(\d+)\.", str(call.messages[0]))[0]
        if turn >= KINDS[kind].turns and kind != "spent":
            return [agents.use("submit_answer", turn, **agents.ANSWER)]
        if turn and kind == "asks":
            return [agents.use("ask_person", turn, question="Which of them?")]
        if turn and kind == "errs":
            return [agents.use("look_up", turn, order=number)]
        return [agents.use("charge", turn, order="it")]


class Machine:
    """Threads that do what processes do."""

    def __init__(self, house: "House", run_ids: list[UUID], ledger: Ledger) -> None:
        self.house, self.run_ids, self.ledger = house, run_ids, ledger
        self.shop = agents.shop(house, ledger.reply, ledger.tools())
        self.messages: queue.SimpleQueue[UUID] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.settings = house.settings.model_copy(update={"unclaimed_seconds": 2.0, "ring_age_seconds": 0.05})

    def until_stopped(self, act: Callable[[random.Random], None], seed: int, pause: float) -> None:
        dice = random.Random(seed)
        while not self.stop.wait(pause):
            act(dice)

    def work(self, _: random.Random) -> None:
        try:
            step = self.messages.get(timeout=0.1)
        except queue.Empty:
            return
        execute(self.shop, tenant=self.house.tenant, step_id=step)

    def supervise(self, seed: int) -> None:
        """Lives of a supervisor: each ends when its connections are cut, and the next one knows nothing of it."""
        dice = random.Random(seed)
        while not self.stop.is_set():
            url = f"{self.house.database_url}{'&' if '?' in self.house.database_url else '?'}application_name=shaky"
            engine, graphs = open_engine(url, role=SUPERVISOR_ROLE), Graphs()
            try:
                while not self.stop.wait(0.1):
                    self._round(engine, graphs, dice)
            except DBAPIError:
                pass
            finally:
                engine.dispose()

    def _round(self, engine: Any, graphs: Graphs, dice: random.Random) -> None:
        found = watch.watch(engine, self.settings, broker=Sounding())
        for run_id in found.runs:
            advance.advance(engine, graphs, run_id, audit_key=AUDIT_KEY)
        for one in admit.admit(engine, graphs):
            for emission in one.emissions:
                if dice.random() >= LOST_MESSAGES:
                    for link in emission.links:  # type: ignore[union-attr]
                        self.messages.put(link.step_id)

    def cut(self, dice: random.Random) -> None:
        if self.stop.wait(dice.uniform(*CUT_SECONDS)):
            return
        rows = self.house.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shaky'"
        )
        self.ledger.cuts += len(rows)

    def answer(self, dice: random.Random) -> None:
        """A person, or a program, who answers some of what is asked; some of it twice."""
        with self.house.as_tenant() as session:
            asked = session.execute(
                text(
                    "SELECT run, id, key, wait_id FROM steps s WHERE status = 'waiting' "
                    "AND wait_reason IN ('human', 'gate') AND NOT EXISTS "
                    "(SELECT FROM signals g WHERE g.step = s.id AND g.wait_id = s.wait_id) ORDER BY id LIMIT 20"
                )
            ).all()
        # All look at the same few at the same time.
        for run_id, step, key, wait_id in asked:
            name, choice = f"{threading.get_ident()}-{dice.random()}", dice.choice(KINDS[kind_of(key)].choices)
            bodies = {"override": {**agents.ANSWER, "answer": name}, "answer": f"{name} says so"}
            with self.house.as_tenant() as session:
                given = answer(
                    session,
                    self.house.tenant,
                    run_id=run_id,
                    step=step,
                    wait_id=wait_id,
                    choice=choice,
                    body=bodies.get(choice),
                    by=name,
                )
            with self.ledger.guard:
                if given.first:
                    self.ledger.taken[wait_id].append((name, choice))
                else:
                    self.ledger.refused += 1

    def over(self) -> bool:
        rows = self.house.execute(
            "SELECT count(*) FROM runs WHERE id = ANY(:r) AND finished_at IS NULL", {"r": self.run_ids}
        )
        return rows[0][0] == 0

    def run(self) -> float:
        began = time.monotonic()
        with ThreadPoolExecutor(WORKERS + SUPERVISORS + PEOPLE + 1) as pool:
            going = [pool.submit(self.until_stopped, self.work, 0, 0.0) for _ in range(WORKERS)]
            going += [pool.submit(self.supervise, seed) for seed in range(SUPERVISORS)]
            going += [pool.submit(self.until_stopped, self.answer, seed, 0.2) for seed in range(PEOPLE)]
            going += [pool.submit(self.until_stopped, self.cut, 0, 0.0)]
            try:
                while not self.over():
                    broken = [one for one in going if one.done()]
                    assert not broken, [one.exception() for one in broken]
                    assert time.monotonic() - began < DEADLINE_SECONDS, self.statuses()
                    # The workers' heartbeat. What is queued is soon claimed: a message that is not was lost.
                    self.house.open_pool("research", slots=2 * WORKERS)
                    time.sleep(0.3)
            finally:
                self.stop.set()
        for one in going:
            one.result()
        return time.monotonic() - began

    def statuses(self) -> Counter[str]:
        rows = self.house.execute("SELECT status FROM steps WHERE run = ANY(:runs)", {"runs": self.run_ids})
        return Counter(status for (status,) in rows)


def order(number: int, dice: random.Random) -> Step:
    kind = list(KINDS)[number % len(KINDS)]
    then = "reject" if kind == "gate" else "skip"
    policy = Expiry(after_seconds=dice.uniform(0.05, 0.6), then=then) if dice.random() < EXPIRING else None
    key = f"{kind}-{number}"
    if kind == "gate":
        return Step(key=key, kind="gate", instruction="May it go?", expires=policy)
    return agents.agent(key, max_turns=KINDS[kind].turns if kind == "spent" else None, expires=policy)


def kind_of(key: str) -> str:
    return key.partition("-")[0]


@pytest.mark.timeout(DEADLINE_SECONDS + 60)
def test_a_thousand_escalations_are_each_answered_once_and_nothing_before_them_is_done_again(house: "House") -> None:
    ledger, dice = Ledger(), random.Random(7)
    plans = [[order(n, dice) for n in range(STEPS_A_RUN)] for _ in range(ESCALATIONS // STEPS_A_RUN)]
    run_ids = [agents.start(house, *plan, tools=ledger.tools()) for plan in plans]
    machine = Machine(house, run_ids, ledger)
    for row in house.execute("SELECT id FROM steps WHERE run = ANY(:runs) AND status = 'queued'", {"runs": run_ids}):
        machine.messages.put(row.id)

    seconds = machine.run()

    steps = {
        step_id(run, step.key): kind_of(step.key) for run, plan in zip(run_ids, plans, strict=True) for step in plan
    }
    assert len(steps) == ESCALATIONS
    heard, ended = facts_of(house, run_ids)
    # None lost, none stuck: each has been answered and has ended. None doubled: by one answer.
    assert {step: len(answers) for step, answers in heard.items()} == dict.fromkeys(steps, 1)
    assert ended.keys() == steps.keys()
    by_clock = 0
    calls: dict[str, int] = {}
    said: Counter[tuple[str, str]] = Counter()
    for step, kind in steps.items():
        (answer,) = heard[step]
        told = ledger.taken.get(answer.wait_id, [])
        by_clock += answer.by == "expiry"
        # Whoever was told that theirs is the answer, is in the journal, and nobody else was told so.
        assert told == ([] if answer.by == "expiry" else [(answer.by, answer.choice)])
        assert ended[step].outcome == ("failed" if answer.choice in FAILING else "succeeded")
        said[kind, answer.choice] += 1
        if kind != "gate":
            calls[str(step)] = KINDS[kind].turns + (answer.choice in KINDS[kind].goes_on)
        if answer.choice == "override":
            assert ended[step].result == {**agents.ANSWER, "answer": answer.by}
    # What was done before the wait was done once.
    assert ledger.charged == dict.fromkeys(calls, 1)
    assert ledger.called == calls
    # Each answer that there is was given, to each kind of question.
    assert said.keys() >= {(name, choice) for name, kind in KINDS.items() for choice in kind.choices}
    # The race was one: both were there, and supervisors were cut off.
    assert by_clock > 0
    assert ledger.refused > 0
    assert ledger.cuts > 0
    print(
        f"{ESCALATIONS} escalations in {seconds:.0f} s: {by_clock} expired, {ledger.refused} answers came second, "
        f"{ledger.cuts} connections of supervisors cut; 0 lost, 0 doubled, 0 stuck, code before the wait ran once"
    )
    for run_id in run_ids:
        assert house.drift(run_id) == []
        assert house.objections(run_id) == []


def facts_of(house: "House", run_ids: list[UUID]) -> tuple[dict[UUID, list[SignalReceived]], dict[UUID, StepFinished]]:
    heard: dict[UUID, list[SignalReceived]] = defaultdict(list)
    ended: dict[UUID, StepFinished] = {}
    rows = house.execute(
        "SELECT step, body FROM journal WHERE run = ANY(:runs) AND kind IN ('signal.received', 'step.finished')",
        {"runs": run_ids},
    )
    for step, body in rows:
        fact = parse_fact(body, schema_version=1)
        if isinstance(fact, SignalReceived):
            heard[step].append(fact)
        elif isinstance(fact, StepFinished):
            assert step not in ended
            ended[step] = fact
    return heard, ended
