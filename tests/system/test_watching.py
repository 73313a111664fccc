"""Where somebody watches, an agent's words are seen while they come."""

from pathlib import Path

import pytest
from chaos.machine import Fleet, Machine
from chaos.plans import READER, reader

from chargehand.orchestrator.plan import Plan
from tests.conftest import WaitUntil

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(pools=("audit",), call_seconds=0.5, forged=True)


def test_whoever_watches_sees_what_an_agent_says_and_nobody_else_makes_it_stream(
    laptop: Machine, workspace: Path, wait_until: WaitUntil
) -> None:
    unwatched = laptop.client.submit(plan=Plan.of([reader("read")]), workspace=workspace, roles=[READER])
    unwatched.wait(timeout_seconds=60)
    assert laptop.calls(), "the model was asked"
    assert not any(call.stream for call in laptop.calls())

    watched = laptop.client.submit(plan=Plan.of([reader("read")]), workspace=workspace, roles=[READER])
    seen: list[str] = []

    def has_spoken() -> bool:
        seen.extend(watched.progress().values())
        return any("no language model" in line.lower() for line in seen)

    wait_until(has_spoken, 60, f"words of the model in {seen}")
    watched.wait(timeout_seconds=60)
    assert any(call.stream for call in laptop.calls())
