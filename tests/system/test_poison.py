"""Steps that take their worker down, each in its way: they come before a person, and who was beside them does not."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
from chaos.evidence import leftovers
from chaos.machine import Machine, machine, solo_beside, until
from chaos.plans import counted, held
from sqlalchemy import text
from system.hazards import HazardousFleet
from system.streams import facts_of, holders_of

from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.facts import StepRecovered, StepWaiting
from chargehand.orchestrator.laptop.processes import Processes
from chargehand.orchestrator.plan import Plan, Pool, Step

pytestmark = [pytest.mark.system, pytest.mark.long]

WAIT_SECONDS = 90.0
NEIGHBOURS = 3
# A worker has a third of it.
MOST_RESIDENT_BYTES = 450_000_000
LOOK_AT_MEMORY_SECONDS = 0.05
# Three leases: whoever holds the interpreter for so long is taken for dead, also by a supervisor that is slow to look.
HOG_SECONDS = 9.0
# Of what would stay for a quarter of an hour: long enough to be seen and killed on a busy machine.
ENCLOSED_SECONDS = 6.0


@pytest.fixture(scope="module")
def laptop(home) -> Iterator[Machine]:
    """A laptop on which one crash is forgiven and no more: this file is about what comes after."""
    with machine(home, HazardousFleet(), max_crashes=1) as running:
        yield running


@pytest.fixture
def solo(laptop) -> Iterator[Processes]:
    """The pool `solo`, which a laptop does not have: one thread, started beside the others."""
    [audit] = (spec for spec in laptop.specs if spec.name == "audit")
    pool = Processes(logs=laptop.settings.home / "logs", cwd=laptop.settings.home, progress=laptop.said.append)
    pool.start([solo_beside(audit)])
    try:
        until(lambda: has_pool(laptop, "solo"), WAIT_SECONDS, "the solo pool is heard of")
        yield pool
    finally:
        pool.stop()


def has_pool(laptop: Machine, pool: str) -> bool:
    with laptop.client.session() as session:
        return bool(session.scalar(text("SELECT count(*) FROM pools WHERE pool = :pool"), {"pool": pool}))


@contextmanager
def memory_limited(pids: Callable[[], list[int]]) -> Iterator[list[int]]:
    """End processes that grow too large, as a kernel or a cgroup does; gives those that were ended."""
    ended: list[int] = []
    over = threading.Event()

    def guard() -> None:
        while not over.wait(LOOK_AT_MEMORY_SECONDS):
            for pid in pids():
                with suppress(psutil.NoSuchProcess):
                    process = psutil.Process(pid)
                    if process.memory_info().rss > MOST_RESIDENT_BYTES:
                        process.kill()
                        ended.append(pid)

    thread = threading.Thread(target=guard)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


def poison(kind: str, pool: Pool, **arguments: float) -> Step:
    """A step that takes its worker down when its door is open."""
    return Step(key=kind, kind="script", script=kind, pool=pool, arguments={"door": f"strike-{kind}", **arguments})


def crowd(*poisons: Step) -> Plan:
    """Each poison with neighbours that are at work in its process when it strikes, and an end behind all of them."""
    neighbours = [
        held(f"beside-{one.key}-{number}", door=f"calm-{one.key}", pool=one.pool)
        for one in poisons
        for number in range(NEIGHBOURS)
    ]
    everyone = [*neighbours, *poisons]
    return Plan.of([*everyone, counted("end", *(step.key for step in everyone))])


def neighbours_in(plan: Plan) -> list[str]:
    return [step.key for step in plan.steps if step.key.startswith("beside-")]


def strike(laptop: Machine, run: RunHandle, plan: Plan, *poisons: Step) -> None:
    """Let the poisons act when everybody is at work; their neighbours go on when all have been lost."""
    until(lambda: len(laptop.ledger.knocks(run.run_id)) == len(plan.steps) - 1, WAIT_SECONDS, "all are at work")
    for one in poisons:
        laptop.ledger.open(f"strike-{one.key}")
    lost = [*neighbours_in(plan), *(one.key for one in poisons)]
    until(lambda: all(facts_of(run, key, StepRecovered) for key in lost), WAIT_SECONDS, "all have been lost")
    for one in poisons:
        laptop.ledger.open(f"calm-{one.key}")


def pools_of(run: RunHandle, key: str) -> list[str]:
    """The pools in which a step was tried, in order."""
    return [holder.partition("@")[0] for holder in holders_of(run, key)]


def test_without_a_solo_pool_a_person_decides_after_the_last_crash_that_is_forgiven(laptop):
    vanish = poison("vanish", "audit")
    plan = crowd(vanish)
    run = laptop.client.submit(plan=plan)
    strike(laptop, run, plan, vanish)
    # Nobody can tell the neighbours from the poison: they may come before a person, too.
    questions: dict[str, str] = {}

    def answered() -> bool:
        for asked in laptop.client.escalations(run.run_id):
            questions[asked.step_key] = asked.question
            laptop.client.answer(asked, "skip" if asked.step_key == "vanish" else "retry")
        return run.status().status == "succeeded"

    until(answered, WAIT_SECONDS, "the run ends")

    assert "took its worker down 2 times and no solo pool is running" in questions["vanish"]
    assert pools_of(run, "vanish") == ["audit", "audit", "audit"]
    effects = {effect.step for effect in laptop.ledger.effects(run.run_id)}
    assert effects == {*neighbours_in(plan), "end"}
    assert laptop.objections(run, plan) == []


def test_with_a_solo_pool_only_the_poison_comes_before_a_person(laptop, solo):
    """A segmentation fault, memory without end, and the interpreter's lock held for longer than a lease."""
    segfault, devour = poison("segfault", "audit"), poison("devour", "research")
    hog = poison("hog", "coding", seconds=HOG_SECONDS)
    poisons = {"segfault": "audit", "devour": "research", "hog": "coding"}
    plan = crowd(segfault, devour, hog)
    until(laptop.is_whole, WAIT_SECONDS, "all processes are up")
    before = laptop.laptop.processes.pids()

    def limited() -> list[int]:
        research = laptop.laptop.processes.pids().get("research")
        return [*solo.pids().values(), *([] if research is None else [research])]

    with memory_limited(limited) as ended:
        run = laptop.client.submit(plan=plan)
        strike(laptop, run, plan, segfault, devour, hog)
        until(lambda: len(laptop.client.escalations(run.run_id)) == len(poisons), WAIT_SECONDS, "a person is asked")
    asked = {escalation.step_key: escalation for escalation in laptop.client.escalations(run.run_id)}
    until(lambda: laptop.statuses(run)["beside-hog-2"] == "succeeded", WAIT_SECONDS, "the neighbours are done")
    for escalation in asked.values():
        assert "took its worker down 2 times alone in a solo pool" in escalation.question
        assert laptop.client.answer(escalation, "skip")
    laptop.wait(run, WAIT_SECONDS)

    assert asked.keys() == poisons.keys()
    for key, pool in poisons.items():
        # Once among others, once alone; the third claim carries out what the person decided. On a machine so slow that
        # Postgres lets a heartbeat wait for a second, a crash is taken back, and its step is tried alone once more.
        first, second, *decided = pools_of(run, key)
        assert (first, second, {*decided}) == (pool, "solo", {"solo"})
        assert [fact.solo for fact in facts_of(run, key, StepRecovered)[:2]] == [True, True]
    for key in neighbours_in(plan):
        assert pools_of(run, key) == [poisons[key.split("-")[1]], "solo"]
        assert facts_of(run, key, StepWaiting) == []
    effects = {effect.step for effect in laptop.ledger.effects(run.run_id)}
    assert effects == {*neighbours_in(plan), "end"}
    # Memory was ended twice from outside, the fault ended its process, and who held the lock lives and was only silent.
    after = laptop.laptop.processes.pids()
    assert ended[0] == before["research"]
    assert len(ended) == 2
    assert after["audit"] != before["audit"]
    assert after["coding"] == before["coding"]
    assert laptop.objections(run, plan) == []


def test_what_runs_in_a_sandbox_goes_down_with_the_worker_and_runs_again(laptop, workspace):
    """A sandbox that outlives its worker would work on for nobody, and is what the checker of chaos looks for."""
    plan = Plan.of(
        [Step(key="enclosed", kind="script", script="enclose", pool="audit", arguments={"seconds": ENCLOSED_SECONDS})]
    )
    until(laptop.is_whole, WAIT_SECONDS, "all processes are up")

    def left() -> list[str]:
        return leftovers(laptop.settings.home, expected=laptop.expected_pids(), patience_seconds=0)

    def sandboxes() -> set[int]:
        return {int(pid) for line in left() for pid in re.findall(r"^process (\d+) is left over: .*--unshare-", line)}

    run = laptop.client.submit("Run it", plan=plan, workspace=workspace)
    until(sandboxes, WAIT_SECONDS, "it runs in a sandbox")
    killed = sandboxes()
    laptop.signal("audit")
    until(lambda: not killed & sandboxes(), WAIT_SECONDS, "nobody ended it, and it is gone")
    laptop.wait(run, WAIT_SECONDS)

    assert laptop.epochs(run) == {"enclosed": 2}
    assert laptop.objections(run, plan) == []
    until(lambda: left() == [], WAIT_SECONDS, "nothing is left")
