"""A journal is linear and has no ceiling: what is stored for long conversations, and what their last turns cost."""

import base64
import random
import statistics
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from chargehand.orchestrator.facts import ModelRequested, ModelResponded, StepFinished, Usage
from chargehand.orchestrator.plan import Step
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.conversation import fold

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

# langgraph-checkpoint-postgres stores 401 MB for these: every checkpoint holds the whole conversation.
STORED_TURNS = 400
STORED_ANSWER_BYTES = 5_000
MOST_STORED_BYTES = 3_000_000
LONG_TURNS = 10_000
# Turn 10 and the hundred behind it, beside the last hundred of the long step.
EARLY_TURN = 10
WINDOW = 100
WINDOWS = 5
MOST_LATE_OVER_EARLY = 1.2


@pytest.fixture(scope="module", autouse=True)
def _without_waiting_for_the_disk(database_url: str) -> None:
    """Commits of this module's database do not wait for the disk: what grows would hide behind that wait."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(connection.info.dbname))
        )


def recorders(house: "House", count: int) -> list[StepRecorder]:
    """Recorders of freshly claimed steps of one run."""
    steps = [Step(key=f"work-{index}", kind="script", script="work") for index in range(count)]
    run_id = house.start(*steps)
    return [StepRecorder(house.connections, house.claim(run_id, step.key), lease_seconds=600) for step in steps]


def take_turn(recorder: StepRecorder, turn: int, answer: str) -> float:
    """One turn without the model; gives the seconds it took."""
    call_id = uuid4()
    requested = ModelRequested(
        call_id=call_id,
        turn=turn,
        model="offline-rules-1",
        tier="medium",
        routed_because="the role's tier",
        prompt_hash="0" * 64,
        max_tokens=4_096,
        reserved_microusd=10,
        reads=("role:0123456789abcdef",),
    )
    responded = ModelResponded(
        call_id=call_id,
        model="offline-rules-1",
        content=({"type": "text", "text": answer},),
        stop_reason="tool_use",
        usage=Usage(input_tokens=900, output_tokens=400),
        cost_microusd=1,
        duration_ms=812,
    )
    started = time.perf_counter()
    recorder.request([], requested)
    recorder.respond(responded)
    return time.perf_counter() - started


def incompressible(chance: random.Random, size: int) -> str:
    """Text that neither TOAST's compression nor repetition makes smaller: the dearest answer of that size."""
    return base64.b64encode(chance.randbytes(size)).decode()[:size]


def test_four_hundred_turns_of_five_kilobytes_store_three_megabytes_at_most(house: "House") -> None:
    chance = random.Random(1)
    [recorder] = recorders(house, 1)
    # Everything that the journal has on the disk: its rows, what TOAST has moved out of them, and all indexes.
    stored = "SELECT pg_total_relation_size('chargehand.journal')"
    before = house.execute(stored)[0][0]

    for turn in range(STORED_TURNS):
        take_turn(recorder, turn, incompressible(chance, STORED_ANSWER_BYTES))

    grown = house.execute(stored)[0][0] - before
    assert STORED_TURNS * STORED_ANSWER_BYTES < grown <= MOST_STORED_BYTES


def test_ten_thousand_turns_complete_and_the_last_ones_cost_what_the_first_ones_did(house: "House") -> None:
    answer = "x" * 500
    long, *fresh = recorders(house, 1 + WINDOWS)
    for turn in range(LONG_TURNS - WINDOWS * WINDOW):
        take_turn(long, turn, answer)
    ratios = []
    for window, new in enumerate(fresh):
        for turn in range(EARLY_TURN):
            take_turn(new, turn, answer)
        early, late = [], []
        # In turns: whatever else the machine does meets both.
        for turn in range(WINDOW):
            early.append(take_turn(new, EARLY_TURN + turn, answer))
            late.append(take_turn(long, LONG_TURNS - (WINDOWS - window) * WINDOW + turn, answer))
        ratios.append(statistics.median(late) / statistics.median(early))

    # The journal grows with every turn; who opens it reads it whole, once.
    held = long._held
    began = time.process_time()
    resumed = StepRecorder(house.connections, held, lease_seconds=600)
    conversation = fold(resumed.history)
    opened_seconds = time.process_time() - began
    held.finish(StepFinished(outcome="succeeded"))

    assert statistics.median(ratios) <= MOST_LATE_OVER_EARLY
    assert conversation.turns == LONG_TURNS
    assert conversation.open_calls == ()
    assert opened_seconds < 10
    assert house.drift(held.claim.run_id) == []
    assert house.objections(held.claim.run_id) == []
