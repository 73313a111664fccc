"""Why a step does not go on: each cause has its words, and says what would free it."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from chargehand.orchestrator.reasons import Money, Pool, Stand, Surroundings, reason_of
from chargehand.orchestrator.switches import Switch

OTHER = UUID(int=7)
PAUSED = Switch(kind="role", name="asker", by="ann@desk", reason="", since=datetime(2026, 1, 1, tzinfo=UTC))


def why(around: dict[str, Any] | None = None, **stands: Any) -> str:
    stand = Stand(**{"key": "a", "status": "waiting", "pool": "research", "schema_version": 1, **stands})
    given = {
        "run": "4f7e681c",
        "run_status": "running",
        "version": 1,
        "money": Money(cap=1_000_000, drawn=900_000),
        "paused": {},
        "pools": {"research": Pool(slots=4, is_known=True, taken=4)},
    }
    return str(reason_of(stand, Surroundings(**{**given, **(around or {})})))


@pytest.mark.parametrize(
    ("around", "stands", "words"),
    [
        ({"run_status": "paused"}, {}, ["the run is paused", "`chargehand resume 4f7e681c`"]),
        ({"run_status": "queued", "key_holder": OTHER}, {}, [f"which run {OTHER} has", f"`chargehand cancel {OTHER}`"]),
        ({"paused": {("role", "asker"): PAUSED}}, {"status": "ready", "role": "asker"},
         ["paused by ann@desk", "`chargehand resume --role asker`"]),
        ({}, {"status": "ready"}, ["4 slots, all are taken", "when a step ends"]),
        ({"pools": {"research": Pool(slots=4, is_known=True, taken=1)}}, {"status": "ready"},
         ["your steps have 1", "the next admission"]),
        ({"pools": {}}, {"status": "ready"}, ["has no process; start one"]),
        ({"pools": {"research": Pool(slots=0, is_known=True)}}, {"status": "queued"}, ["no live process any more"]),
        ({}, {"status": "queued", "queued_seconds": 2.0, "resend_seconds": 10.0},
         ["for 2 s", "if its message is lost, it is sent again in 10 s"]),
        ({}, {"status": "ready", "schema_version": 2}, ["start workers of version 2"]),
        ({}, {"status": "running", "holder": "w1", "lease_seconds": 9.0}, ["on w1", "lease holds for 9 s more"]),
        ({}, {"status": "running", "holder": "w1", "lease_seconds": -3.0}, ["ran out 3 s ago", "takes it over"]),
        ({}, {"status": "running", "holder": "w1", "halt": "pause"}, ["a pause was asked for"]),
        ({}, {"status": "pending", "open_before": [f"s{n}" for n in range(8)]}, ["s0, s1", "and 2 more"]),
        ({}, {"status": "pending", "replanners": ["replan-1"]}, ["a change of the plan, which replan-1"]),
        ({}, {"wait_reason": "rate", "question": "429", "run_after_seconds": 30.0}, ["a rate limit: 429", "in 30 s"]),
        ({}, {"wait_reason": "human", "question": "Which?", "options": ("a", "b"), "expires_seconds": 3600.0},
         ["a person: Which?", "`chargehand resolve 4f7e681c a a|b`", "within 60 min"]),
        ({}, {"wait_reason": "gate", "is_answered": True}, ["is answered", "goes on with the next round"]),
        ({}, {"wait_reason": "budget", "run_after_seconds": 2.0}, ["other steps hold", "$0.9000 of the run's $1.0000"]),
        ({"money": Money(cap=1, drawn=1, day_cap=5_000_000, day_drawn=5_000_000)}, {"wait_reason": "budget"},
         ["`chargehand budget 4f7e681c USD`", "$5.0000 a day (UTC)", "`chargehand caps`"]),
        ({}, {"wait_reason": "children", "open_children": ["a.1"]}, ["its children a.1"]),
    ],
)  # fmt: skip
def test_each_cause_is_named_with_what_frees_the_step(
    around: dict[str, Any], stands: dict[str, Any], words: list[str]
) -> None:
    said = why(around, **stands)
    for word in words:
        assert word in said
