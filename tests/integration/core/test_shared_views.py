"""Agents that share values, on real Postgres: nobody acts on a view that another has replaced."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from chargehand.memory import shared_state
from chargehand.memory.keyspace import Keyspace, connect
from chargehand.memory.redlock import LockBusy, Redlock
from chargehand.memory.state_changes import Author, changes
from chargehand.orchestrator.facts import ModelRequested, StateRefreshed, StepFinished, ToolFinished
from chargehand.orchestrator.plan import Step, step_id
from chargehand.orchestrator.shared_views import scope_of
from chargehand.workers.models.interface import Block, ModelCall
from chargehand.workers.replay import replay
from chargehand.workers.scripts.registry import SCRIPTS, Script, ScriptContext, script
from chargehand.workers.tools.shared_state import read_state, update_state
from tests.integration.core.agents import ANSWER, agent, deliver, shop, start, use

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

TOOLS = {"read_state": read_state, "update_state": update_state}
DONE: Block = {"type": "tool_use", "id": "end", "name": "submit_answer", "input": ANSWER}
Turn = Callable[[], list[Block]]


class Shared:
    """A run whose agent does, in each turn, what the test says, and whose state others replace meanwhile."""

    def __init__(self, house: "House") -> None:
        self.house = house
        self.run_id = start(house, agent("a"), tools=TOOLS)
        self.shown: list[str] = []

    def put(self, key: str, value: Any) -> None:
        """What another step does."""
        with self.house.as_tenant() as session:
            shared_state.update(
                session,
                tenant=self.house.tenant,
                scope=scope_of(self.run_id),
                key=key,
                change=lambda _: value,
                author=Author(run=self.run_id, step_key="b"),
            )

    def value(self, key: str) -> shared_state.Versioned:
        with self.house.as_tenant() as session:
            return shared_state.read(session, tenant=self.house.tenant, scope=scope_of(self.run_id), key=key)

    def work(self, *turns: Turn) -> None:
        def reply(call: ModelCall, turn: int) -> list[Block]:
            self.shown.append(json.dumps(call.messages))
            return turns[turn]()

        deliver(self.house, shop(self.house, reply, TOOLS), self.run_id, "a")

    def facts(self, kind: Any) -> list[Any]:
        held = self.house.execute(
            "SELECT body FROM journal WHERE run = :run AND step = :step AND kind = :kind ORDER BY seq",
            {"run": self.run_id, "step": step_id(self.run_id, "a"), "kind": kind.model_fields["kind"].default},
        )
        return [kind.model_validate_json(body) for (body,) in held]

    def ends_well(self) -> None:
        """It finished, its chain holds, and a replay rebuilds every request from the journal alone."""
        assert [one.outcome for one in self.facts(StepFinished)] == ["succeeded"]
        with self.house.as_tenant() as session:
            found = replay(session, self.house.tenant, self.run_id, TOOLS)
        assert found.divergences == ()
        assert found.requests == len(self.facts(ModelRequested))
        assert self.house.drift(self.run_id) == []


@pytest.fixture
def shared(house: "House") -> Shared:
    return Shared(house)


def one(name: str, turn: int, **arguments: Any) -> Turn:
    return lambda: [use(name, turn, **arguments)]


def test_a_view_that_was_replaced_is_rebuilt_before_the_model_is_called(shared: Shared) -> None:
    shared.put("plan", "old")

    def look_while_another_writes() -> list[Block]:
        shared.put("plan", "newer")
        return [use("read_state", 1, keys=["other"])]

    shared.work(one("read_state", 0, keys=["plan"]), look_while_another_writes, lambda: [DONE])

    (refreshed,) = shared.facts(StateRefreshed)
    assert [(one.key, one.value, one.seen_version, one.version, one.by) for one in refreshed.values] == [
        ("plan", "newer", 1, 2, "b")
    ]
    assert "newer" not in shared.shown[1]
    assert shared.shown[2].index("old") < shared.shown[2].index("newer")
    reads = [{read for read in fact.reads if read.startswith("state:")} for fact in shared.facts(ModelRequested)]
    assert reads == [set(), {"state:plan@1"}, {"state:plan@2", "state:other@0"}]
    # What it is now changes nothing of what was shown then.
    shared.put("plan", "newest")
    shared.ends_well()


def test_a_commit_on_a_stale_view_is_refused_and_the_agent_is_told_what_changed(shared: Shared) -> None:
    shared.put("plan", "old")
    shared.put("rules", "strict")

    def write_too_late() -> list[Block]:
        shared.put("rules", "lax")
        return [use("update_state", 1, key="plan", value="by strict rules")]

    shared.work(
        one("read_state", 0, keys=["plan", "rules"]),
        write_too_late,
        one("update_state", 2, key="plan", value="by lax rules"),
        lambda: [DONE],
    )

    refused, written = [fact for fact in shared.facts(ToolFinished) if fact.tool == "update_state"]
    assert (refused.outcome, refused.error_type) == ("error", "ToolRetry")
    assert "Nothing was written. 'rules' is at version 2, you had seen 1, replaced by step b." in refused.content
    assert "lax" in shared.shown[2]
    assert written.reads == ("state:plan@2",)
    assert shared.value("plan").value == "by lax rules"
    # What it has written itself is no news to it.
    assert len(shared.facts(StateRefreshed)) == 1
    with shared.house.as_tenant() as session:
        *_, last = changes(session, tenant=shared.house.tenant, scope=scope_of(shared.run_id), key="plan")
    agents_step = step_id(shared.run_id, "a")
    assert (last.run, last.step, last.step_key, last.epoch) == (shared.run_id, agents_step, "a", 1)
    shared.ends_well()


def test_what_was_never_seen_cannot_be_replaced(shared: Shared) -> None:
    shared.put("plan", "old")
    shared.work(
        one("update_state", 0, key="plan", value="blind"),
        # It is read and written in one turn: the model has not seen what it reads.
        lambda: [
            {**use("read_state", 1, keys=["plan"]), "id": "read"},
            {**use("update_state", 1, key="plan", value="blind too"), "id": "write"},
        ],
        lambda: [
            {**use("update_state", 2, key="plan", value="one"), "id": "one"},
            {**use("update_state", 2, key="plan", value="two"), "id": "two"},
        ],
        lambda: [DONE],
    )
    writes = [fact for fact in shared.facts(ToolFinished) if fact.tool == "update_state"]
    assert [fact.outcome for fact in writes] == ["error", "error", "ok", "ok"]
    assert "You have not seen 'plan'" in writes[0].content
    assert shared.value("plan").version == 3
    shared.ends_well()


def test_a_worker_that_died_after_its_commit_writes_once(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.put("count", 1)
    real = shared_state.commit_on_view

    def commit_and_die(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(shared_state, "commit_on_view", real)
        real(*arguments, **named)
        arguments[0].commit()
        raise KeyboardInterrupt

    monkeypatch.setattr(shared_state, "commit_on_view", commit_and_die)
    turns = (one("read_state", 0, keys=["count"]), one("update_state", 1, key="count", value=2), lambda: [DONE])
    with pytest.raises(KeyboardInterrupt):
        shared.work(*turns)
    assert shared.value("count").version == 2
    shared.put("count", 30)
    shared.house.expire(shared.run_id, "a")
    assert shared.house.recover() == 1
    shared.house.admit()
    shared.work(*turns)
    assert (shared.value("count").value, shared.value("count").version) == (30, 3)
    (written,) = [fact for fact in shared.facts(ToolFinished) if fact.tool == "update_state"]
    assert written.reads == ("state:count@2",)
    # And the model is shown that it is not what it wrote any more.
    assert [value.version for fact in shared.facts(StateRefreshed) for value in fact.values] == [3]
    shared.ends_well()


def test_who_has_lost_the_step_replaces_nothing(shared: Shared) -> None:
    shared.put("plan", "old")

    def overtaken() -> list[Block]:
        # Its answer is recorded; the claim of another comes before its tool.
        return [use("update_state", 1, key="plan", value="a zombie's")]

    real = update_state.function

    def late(**named: Any) -> Any:
        shared.house.execute("UPDATE steps SET epoch = epoch + 1 WHERE run = :run", {"run": shared.run_id})
        return real(**named)

    tools = {**TOOLS, "update_state": replace(update_state, function=late)}

    def reply(call: ModelCall, turn: int) -> list[Block]:
        return [one("read_state", 0, keys=["plan"]), overtaken][turn]()

    deliver(shared.house, shop(shared.house, reply, tools), shared.run_id, "a")
    assert shared.value("plan").value == "old"
    assert [fact.tool for fact in shared.facts(ToolFinished)] == ["read_state"]


def test_scripts_share_values_and_take_leases(house: "House", redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chargehand.workers.scripts.registry.SCRIPTS", {**SCRIPTS})
    seen: list[Any] = []

    def work(context: ScriptContext) -> int:
        board = context.blackboard
        assert board is not None
        board.update("total", lambda value: (value if isinstance(value, int) else 0) + 1)
        board.transact(["total", "half"], lambda values: {"half": 0.5})
        with board.lease("total") as held:
            with pytest.raises(LockBusy), board.lease("total"):
                pytest.fail("two hold the lease")
            written = held.commit(10)
        board.across_runs.update("all", lambda _: str(context.run_id))
        seen.append((board.read("total").value, board.read("half").value, board.across_runs.read("total").version))
        return written.version

    made: Script[..., Any] = script(name="test.share")(work)
    run_id = house.start(Step(key="s", kind="script", script="test.share"))
    client = connect(redis_url, connect_timeout_seconds=1.0, retries=0)
    redlock = Redlock([client], Keyspace("test"))
    deliver(house, replace(house.shop(made), redlock=redlock), run_id, "s")
    assert seen == [(10, 0.5, 0)]
    assert house.statuses(run_id) == {"s": "succeeded"}
    redlock.close()
    client.close()
