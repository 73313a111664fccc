"""A pack: many small scripts that share a message, each recorded as if it had had its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest

from chargehand.memory.artifacts import Artifacts
from chargehand.orchestrator import steps as statements
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.plan import Step, step_id
from chargehand.workers import executor
from chargehand.workers.executor import execute_pack
from chargehand.workers.scripts.registry import SCRIPTS, Script, ScriptContext, script
from chargehand.workers.shop import Shop

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


class NoHeartbeat:
    """Leases of tests are long."""

    def hold(self, step_id: UUID, epoch: int, on_lost: Callable[[], None]) -> None: ...

    def drop(self, step_id: UUID, epoch: int) -> None: ...


class Silence:
    """Nobody follows."""

    def give(self, run_id: UUID) -> None: ...


class Worker:
    """One worker's shop with scripts of the test's own, and what they have seen."""

    def __init__(self, house: "House", home: Path) -> None:
        self.house = house
        self.ran: list[str] = []
        self.rung: list[UUID] = []
        self.stopping = threading.Event()
        self.scripts: dict[str, Script[..., Any]] = {}
        self.shop = Shop(
            settings=house.settings,
            connections=house.connections,
            engine=house.app,
            heartbeat=cast(Any, NoHeartbeat()),
            holder="worker",
            pool="research",
            artifacts=Artifacts(home),
            workspaces=home,
            scripts=MappingProxyType(self.scripts),
            tools={},
            models=cast(Any, None),
            embedder=cast(Any, None),
            recall=cast(Any, None),
            progress=cast(Any, None),
            hints=cast(Any, Silence()),
            ring=self.rung.append,
            stopping=self.stopping,
        )

    def knows(self, name: str, *, effect: Any = "pure") -> Callable[[Callable[[str], object]], None]:
        """Register a script that is given its step's key."""

        def register(body: Callable[[str], object]) -> None:
            def run(context: ScriptContext) -> Any:
                self.ran.append(context.step_key)
                return body(context.step_key)

            self.scripts[name] = script(name=name, effect=effect)(run)
            SCRIPTS.pop(name)

        return register

    def run(self, run_id: UUID, *keys: str) -> str:
        ids = [step_id(run_id, key) for key in keys]
        return execute_pack(self.shop, tenant=self.house.tenant, run_id=run_id, step_ids=ids)


@pytest.fixture
def worker(house: "House", tmp_path: Path) -> Worker:
    return Worker(house, tmp_path)


def steps(*names: str, script: str = "work") -> list[Step]:
    return [Step(key=name, kind="script", script=script) for name in names]


KEYS = [f"s{number}" for number in range(8)]


def test_each_step_of_a_pack_runs_once_and_ends_with_its_own_result(house: "House", worker: Worker) -> None:
    worker.knows("work")(lambda key: {"of": key})
    run_id = house.start(*steps(*KEYS))

    assert worker.run(run_id, *KEYS) == "go_on"

    assert worker.ran == KEYS
    assert set(house.statuses(run_id).values()) == {"succeeded"}
    assert house.kinds(run_id, "s3") == ["step.claimed", "step.finished"]
    house.advance(run_id)
    assert house.drift(run_id) == []
    assert house.objections(run_id) == []


def test_a_pack_that_is_delivered_twice_finds_nothing_the_second_time(house: "House", worker: Worker) -> None:
    worker.knows("work")(lambda key: None)
    run_id = house.start(*steps(*KEYS))
    assert worker.run(run_id, *KEYS) == "go_on"

    assert worker.run(run_id, *KEYS) == "go_on"

    assert worker.ran == KEYS


def test_a_second_copy_of_a_pack_at_work_counts_for_no_chord(house: "House", worker: Worker) -> None:
    worker.knows("work")(lambda key: None)
    run_id = house.start(*steps(*KEYS))
    house.claim(run_id, "s0")

    assert worker.run(run_id, *KEYS) == "stop"

    assert worker.ran == KEYS[1:]


def test_a_step_that_fails_costs_its_neighbours_nothing(house: "House", worker: Worker) -> None:
    def work(key: str) -> None:
        if key == "s3":
            raise ValueError("broken")

    worker.knows("work")(work)
    run_id = house.start(*steps(*KEYS))

    assert worker.run(run_id, *KEYS) == "stop"

    assert house.statuses(run_id) == {key: "failed" if key == "s3" else "succeeded" for key in KEYS}


def test_long_scripts_are_given_back_for_others_to_take(
    house: "House", worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "PACK_SECONDS", 0.05)
    worker.knows("work")(lambda key: time.sleep(0.06))
    run_id = house.start(*steps(*KEYS))
    before = house.rings(run_id)

    assert worker.run(run_id, *KEYS) == "stop"

    assert worker.ran == ["s0"]
    assert house.statuses(run_id) == {"s0": "succeeded", **dict.fromkeys(KEYS[1:], "ready")}
    # It was never this worker's: nothing of it is in the journal, and its next claim is its first.
    assert house.kinds(run_id, "s1") == []
    assert house.rings(run_id) > before
    assert worker.rung == [run_id, run_id]
    assert sum(len(one.emissions) for one in house.admit()) == len(KEYS) - 1


def test_what_is_done_is_recorded_before_too_much_is_at_risk(
    house: "House", worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "AT_RISK_SECONDS", 0.2)
    seen: dict[str, list[str]] = {}

    def work(key: str) -> None:
        seen[key] = [name for name, status in house.statuses(run_id).items() if status == "succeeded"]
        # The first ones are quick, so that the rest is claimed together.
        time.sleep(0.3 if key == "s4" else 0.001)

    worker.knows("work")(work)
    run_id = house.start(*steps(*KEYS))

    assert worker.run(run_id, *KEYS) == "go_on"

    assert seen["s5"] == KEYS[:5]


def test_a_script_with_an_effect_is_claimed_by_itself(house: "House", worker: Worker) -> None:
    claimed_by_then: dict[str, list[str]] = {}

    def pay_out(key: str) -> None:
        claimed_by_then[key] = [name for name, status in house.statuses(run_id).items() if status == "running"]

    worker.knows("work")(lambda key: None)
    worker.knows("pay_out", effect="effectful")(pay_out)
    run_id = house.start(*steps("s0", "s1"), *steps("p0", "p1", script="pay_out"))

    assert worker.run(run_id, "s0", "p0", "s1", "p1") == "go_on"

    # Were this worker to die, of one payment alone it could not be told whether it happened.
    assert claimed_by_then == {"p0": ["p0"], "p1": ["p1"]}


def test_a_stopping_worker_hands_back_what_it_has_not_begun(house: "House", worker: Worker) -> None:
    def work(key: str) -> None:
        if key == "s2":
            worker.stopping.set()

    worker.knows("work")(work)
    run_id = house.start(*steps(*KEYS))

    assert worker.run(run_id, *KEYS) == "stop"

    assert worker.ran == KEYS[:3]
    assert [house.row(run_id, key).status for key in KEYS] == ["succeeded"] * 3 + ["ready"] * 5
    assert [house.row(run_id, key).crashes for key in KEYS] == [0] * 8


def test_a_worker_that_was_overtaken_in_the_middle_of_a_pack_records_only_what_is_its_own(
    house: "House", worker: Worker
) -> None:
    def work(key: str) -> None:
        if key == "s6":
            # The lease of a neighbour that has run already, and is not recorded yet, runs out.
            house.expire(run_id, "s4")
            house.recover()

    worker.knows("work")(work)
    run_id = house.start(*steps(*KEYS))

    assert worker.run(run_id, *KEYS) == "stop"

    assert house.statuses(run_id) == {key: "ready" if key == "s4" else "succeeded" for key in KEYS}
    assert house.kinds(run_id, "s4") == ["step.claimed", "step.recovered"]


def test_the_last_pack_of_a_join_rings_for_it(house: "House", worker: Worker) -> None:
    worker.knows("work")(lambda key: None)
    run_id = house.start(*steps(*KEYS), Step(key="join", kind="script", script="work", after=tuple(KEYS)))

    worker.run(run_id, *KEYS[:4])
    assert worker.rung == []
    worker.run(run_id, *KEYS[4:])
    assert run_id in worker.rung


class Broken:
    """Connections that Postgres does not answer on from the n-th statement of a kind on."""

    def __init__(self, connections: Any, statement: str, after: int) -> None:
        self._connections, self._statement, self._after = connections, statement, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connections, name)

    def rows(self, tenant: UUID, statement: str, parameters: Any) -> Any:
        if statement == self._statement:
            self._after -= 1
            if self._after < 0:
                raise Unavailable("Postgres does not answer")
        return self._connections.rows(tenant, statement, parameters)


def test_a_pack_that_an_outage_cuts_off_is_wanted_again_and_goes_on_where_it_stood(
    house: "House", worker: Worker
) -> None:
    worker.knows("work")(lambda key: None)
    run_id = house.start(*steps(*KEYS))
    whole = worker.shop
    worker.shop = replace(whole, connections=cast(Any, Broken(whole.connections, statements._CLAIM_MANY, after=1)))

    assert worker.run(run_id, *KEYS) == "again"
    assert house.statuses(run_id) == {"s0": "succeeded", **dict.fromkeys(KEYS[1:], "queued")}

    worker.shop = whole
    assert worker.run(run_id, *KEYS) == "go_on"
    assert worker.ran == KEYS


def test_what_a_pack_gives_back_had_its_message(house: "House", worker: Worker) -> None:
    # The next message of it that is lost is the first one, however often it was given back before.
    worker.knows("work")(lambda key: worker.stopping.set())
    run_id = house.start(*steps(*KEYS))
    assert worker.run(run_id, *KEYS) == "stop"
    assert house.statuses(run_id)["s7"] == "ready"
    assert house.row(run_id, "s7").emissions == 0
    house.admit()
    assert house.row(run_id, "s7").emissions == 1
