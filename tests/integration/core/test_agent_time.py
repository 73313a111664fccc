"""For how long the agents of a tenant hold workers: counted by the database's clock, and capped."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from chargehand.orchestrator.counting import Counted
from chargehand.orchestrator.errors import BudgetExceeded, Fenced
from chargehand.orchestrator.facts import CallAbandoned, StepFinished, StepReleased
from chargehand.orchestrator.steps import HeldStep
from chargehand.orchestrator.tenant_counts import CountCaps, TenantCounts, counts_of, set_count_caps
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.tools.registry import make_tool
from tests.integration.core.agents import ANSWER, agent, deliver, shop, start, use
from tests.integration.core.test_turns import requested, responded, script, take_turn

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

OF_TENANT = Counted(of_tenant=True)
# Far more than any of these tests takes.
HOURS_MS = 10 * 3_600_000
PAUSE_MS = 40


@pytest.fixture(autouse=True)
def own_tenant(house: "House") -> Any:
    """A tenant that no other test has worked for."""
    before, house.tenant = house.tenant, uuid4()
    yield house.tenant
    house.tenant = before


def hold_at_most(house: "House", **caps: int) -> None:
    with Session(house.supervisor) as session, session.begin():
        set_count_caps(session, house.tenant, CountCaps(**caps))


def counts(house: "House") -> TenantCounts:
    with house.as_tenant() as session:
        return counts_of(session, house.tenant)


def now(house: "House") -> datetime:
    """The database's clock."""
    moment: datetime = house.execute("SELECT clock_timestamp()")[0][0]
    return moment


def pause(house: "House") -> None:
    """Let at least so much of the database's time go by."""
    house.execute(f"SELECT pg_sleep({PAUSE_MS} / 1000.0)")


def ms_since(house: "House", begun: datetime) -> int:
    # Each of a few statements may round up.
    return round((now(house) - begun).total_seconds() * 1000) + 10


def journalled_ms(house: "House", run_id: UUID) -> int:
    """From the first claim of the run's step to its last fact."""
    rows = house.execute("SELECT at FROM journal WHERE run = :run AND epoch > 0 ORDER BY seq", {"run": run_id})
    return round((rows[-1].at - rows[0].at).total_seconds() * 1000)


def claimed(house: "House", *, counted: Counted = OF_TENANT) -> tuple[UUID, HeldStep, StepRecorder]:
    run_id = house.start(script("a"), budget_microusd=1_000)
    house.execute("UPDATE steps SET spec = jsonb_set(spec, '{kind}', '\"agent\"') WHERE run = :run", {"run": run_id})
    held = house.claim(run_id, "a")
    return run_id, held, StepRecorder(house.connections, held, lease_seconds=60, counted=counted)


def test_an_agent_is_counted_from_its_claim_until_it_lets_go_and_refused_when_the_day_is_used_up(
    house: "House",
) -> None:
    hold_at_most(house, day_max_agent_ms=HOURS_MS)
    begun = now(house)
    _, _, mine = claimed(house)
    pause(house)
    first = requested(10)
    mine.request([], first)
    assert counts(house).day_agent_ms >= PAUSE_MS - 1
    pause(house)
    mine.respond(responded(first.call_id, 1))
    pause(house)
    mine.let_go()
    assert 3 * PAUSE_MS - 3 <= counts(house).agent_ms == counts(house).day_agent_ms <= ms_since(house, begun)

    used = counts(house)
    hold_at_most(house, day_max_agent_ms=used.day_agent_ms)
    with pytest.raises(BudgetExceeded, match=r"day has used up its time of agents: [\d.]+ of [\d.]+ s.*--day-seconds"):
        take_turn(mine)
    assert (counts(house).calls, counts(house).tokens) == (used.calls, used.tokens)

    hold_at_most(house, max_agent_ms=used.agent_ms)
    with pytest.raises(BudgetExceeded, match=r"tenant has used up its time of agents.*--total-seconds"):
        take_turn(mine)
    hold_at_most(house, day_max_agent_ms=HOURS_MS)
    take_turn(mine)


def test_the_next_day_begins_at_zero_and_takes_only_its_own_part_of_a_turn(house: "House") -> None:
    hold_at_most(house, day_max_agent_ms=30 * HOURS_MS)
    _, _, mine = claimed(house)
    take_turn(mine)
    house.execute(
        "UPDATE tenant_usage SET agent_ms = :used, day_agent_ms = :used WHERE tenant = :tenant",
        {"used": 30 * HOURS_MS, "tenant": house.tenant},
    )
    with pytest.raises(BudgetExceeded, match="--day-seconds"):
        take_turn(mine)

    house.execute("UPDATE tenant_usage SET day = day - 1 WHERE tenant = :tenant", {"tenant": house.tenant})
    mine.let_go()
    assert counts(house).day_agent_ms < HOURS_MS
    assert (counts(house).day_calls, counts(house).day_tokens) == (0, 0)
    take_turn(mine)

    # As if this turn had begun three days ago.
    before = counts(house)
    assert mine._counter is not None
    mine._counter._held_to = now(house) - timedelta(days=3)
    mine.let_go()
    assert counts(house).agent_ms - before.agent_ms >= timedelta(days=3).total_seconds() * 1000
    assert counts(house).day_agent_ms - before.day_agent_ms <= timedelta(days=1).total_seconds() * 1000


def test_a_turn_that_crashed_and_is_repeated_counts_for_no_longer_than_it_held_a_worker(house: "House") -> None:
    hold_at_most(house, day_max_agent_ms=HOURS_MS)
    begun = now(house)
    run_id, _, dead = claimed(house)
    lost = requested(10)
    dead.request([], lost)
    pause(house)

    held = house.take_over(run_id, "a")
    before = counts(house).agent_ms
    # It was only frozen, and goes on where it was.
    with pytest.raises(Fenced):
        dead.respond(responded(lost.call_id, 1))
    dead.let_go()
    assert counts(house).agent_ms == before

    mine = StepRecorder(house.connections, held, lease_seconds=60, counted=OF_TENANT)
    mine.abandon(CallAbandoned(call_id=lost.call_id, charged_microusd=10))
    take_turn(mine)
    mine.let_go()
    assert before <= counts(house).agent_ms <= ms_since(house, begun) - PAUSE_MS


def test_a_cap_that_is_first_set_in_the_middle_of_the_day_counts_what_was_used_of_it(house: "House") -> None:
    run_id, held, mine = claimed(house, counted=Counted())
    call = requested(10)
    mine.request([], call)
    pause(house)
    mine.respond(responded(call.call_id, 1))
    pause(house)
    held.release(StepReleased(reason="drain"))
    # Nobody holds it.
    pause(house)
    house.advance(run_id)
    house.admit()
    again = StepRecorder(house.connections, house.claim(run_id, "a"), lease_seconds=60)
    again.request([], requested(10))
    # A worker that dies: what it did after its last fact nobody knows.
    pause(house)
    house.take_over(run_id, "a").finish(StepFinished(outcome="succeeded"))

    hold_at_most(house, day_max_agent_ms=HOURS_MS)
    counted = counts(house)
    assert 2 * PAUSE_MS <= counted.agent_ms == counted.day_agent_ms <= journalled_ms(house, run_id) - 2 * PAUSE_MS
    assert counted.day is not None
    # Taken away and set again, it finds the same.
    hold_at_most(house)
    hold_at_most(house, max_agent_ms=HOURS_MS)
    assert (counts(house).agent_ms, counts(house).day_agent_ms) == (counted.agent_ms, counted.day_agent_ms)

    hold_at_most(house, day_max_agent_ms=counted.day_agent_ms)
    with pytest.raises(BudgetExceeded, match="--day-seconds"):
        take_turn(claimed(house)[2])


def test_scripts_hold_no_time_of_agents(house: "House") -> None:
    run_id = house.start(script("a"))
    held = house.claim(run_id, "a")
    pause(house)
    held.finish(StepFinished(outcome="succeeded"))
    hold_at_most(house, day_max_agent_ms=HOURS_MS)
    assert counts(house).agent_ms == 0


def test_an_agents_whole_attempt_counts_with_what_it_did_after_its_last_call(house: "House") -> None:
    def look(line: str) -> str:
        """Look at a line."""
        pause(house)
        looked.append(now(house))
        return line

    looked: list[datetime] = []
    tools = {"look": make_tool(look, effect="pure")}
    hold_at_most(house, day_max_agent_ms=HOURS_MS, day_max_calls=1)
    run_id = start(house, agent("a"), tools=tools, budget_microusd=1_000_000)
    begun = now(house)
    deliver(house, shop(house, lambda call, turn: [use("look", turn, line="1")], tools), run_id, "a")

    # Its second call was one too many: no statement but the last one knows of the tool.
    assert house.statuses(run_id) == {"a": "failed"}
    claim = house.execute("SELECT at FROM journal WHERE run = :run AND kind = 'step.claimed'", {"run": run_id})[0].at
    assert (looked[0] - claim).total_seconds() * 1000 - 3 <= counts(house).agent_ms <= ms_since(house, begun)

    hold_at_most(house, day_max_agent_ms=1)
    run_id = start(house, agent("a"), tools=tools, budget_microusd=1_000_000)
    deliver(house, shop(house, lambda call, turn: [use("submit_answer", turn, **ANSWER)], tools), run_id, "a")
    assert "time of agents" in str(house.execute("SELECT body FROM journal WHERE run = :r", {"r": run_id}))
    assert counts(house).calls == 1


def test_agents_that_take_their_turns_at_once_all_count(house: "House", threads: ThreadPoolExecutor) -> None:
    hold_at_most(house, day_max_agent_ms=HOURS_MS)
    begun = now(house)
    recorders = [claimed(house)[2] for _ in range(6)]
    together = threading.Barrier(6, timeout=60)

    def work(mine: StepRecorder) -> None:
        together.wait()
        # Their commits may be one; what they are counted by never is.
        take_turn(mine)
        pause(house)
        together.wait()
        mine.let_go()

    list(threads.map(work, recorders))
    assert counts(house).calls == 6
    assert 6 * (PAUSE_MS - 2) <= counts(house).agent_ms <= 6 * ms_since(house, begun)
