"""Plans of scripts on whole laptops: what Celery is given, and that every effect is counted once."""

import base64
import json
from collections import Counter as Tally

import pytest
from chaos.machine import Machine, until
from chaos.plans import counted, held

from chargehand.orchestrator.plan import Plan, step_id

pytestmark = pytest.mark.system


def in_flight(laptop: Machine):
    """Messages that workers hold and have not acknowledged: task name, ids, and what follows."""
    with laptop.redis() as client:
        rows = client.hvals("chargehand.unacked")
    for row in rows:
        message = json.loads(row)[0]
        _, kwargs, embed = json.loads(base64.b64decode(message["body"]))
        yield message["headers"]["task"], kwargs, embed


def test_lines_become_chains_and_a_fan_in_becomes_a_chord(laptop):
    lines = range(8)
    plan = Plan.of(
        [
            counted("start", pool="research"),
            *(held(f"a{i}", "start", door="lines", pool="audit") for i in lines),
            *(counted(f"b{i}", f"a{i}", pool="coding") for i in lines),
            *(counted(f"c{i}", f"b{i}", pool="research") for i in lines),
            counted("join", *(f"c{i}" for i in lines), pool="coding"),
            counted("left", "join"),
            counted("right", "join", pool="coding"),
            counted("bottom", "left", "right"),
            *(counted(f"fan{i}", "bottom", pool=pool) for i, pool in enumerate(("audit", "coding", "research") * 4)),
            counted("end", *(f"fan{i}" for i in range(12))),
        ]
    )
    assert len(plan.steps) == 42
    run = laptop.client.submit(plan=plan)
    until(lambda: len(laptop.counter.knocks(run.run_id)) == 9, message="all lines have begun")

    heads = {kwargs["step_id"]: embed for name, kwargs, embed in in_flight(laptop) if name == "chargehand.audit"}
    assert set(heads) == {str(step_id(run.run_id, f"a{i}")) for i in lines}
    for i in lines:
        # Celery keeps the rest of a chain in reverse.
        follower, tail = reversed(heads[str(step_id(run.run_id, f"a{i}"))]["chain"])
        assert (follower["task"], tail["task"]) == ("chargehand.coding", "chargehand.research")
        assert follower["kwargs"]["step_id"] == str(step_id(run.run_id, f"b{i}"))
        assert tail["options"]["chord"]["task"] == "chargehand.advance"
        assert follower["immutable"]
        assert tail["immutable"]
    assert len({embed["chain"][0]["options"]["group_id"] for embed in heads.values()}) == 1
    assert Tally(laptop.statuses(run).values()) == {"succeeded": 1, "running": 8, "chained": 16, "pending": 17}

    laptop.counter.open("lines")
    laptop.wait(run)
    assert laptop.objections(run, plan) == []
    assert run.result() == {"step": "end", "inputs": sorted(f"fan{i}" for i in range(12))}
    # Undisturbed, nothing is claimed twice.
    assert set(laptop.epochs(run).values()) == {1}
