"""Models that are paused or behind an open circuit are passed over, and what counts against them is an outage only."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anthropic
import pytest

from chargehand.orchestrator.errors import ChargehandError, Unavailable
from chargehand.workers.held import Held
from chargehand.workers.holds import Holds
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import ModelCall, ModelHeld
from chargehand.workers.models.profiles import PROFILES
from chargehand.workers.models.router import Tiers
from chargehand.workers.models.wire import open_client
from chargehand.workers.offline.server import OfflineServer
from chargehand.workers.tools.outside import is_outside

TIERS = Tiers(small="small-1", medium="medium-1", large="large-1")
ASKED = ModelCall(
    tier="medium",
    system=[],
    tools=[{"name": "submit_plan", "description": "Finish.", "input_schema": {"type": "object", "properties": {}}}],
    messages=[{"role": "user", "content": [{"type": "text", "text": "Plan."}]}],
)


class Kept(Holds):
    """Holds that a test sets, and that keep what they are told."""

    def __init__(self, *models: str, reason: Any = "paused") -> None:
        super().__init__()
        self.held = {
            name: Held(reason=reason, why=f"{name} is {reason}", seconds=seconds)
            for seconds, name in enumerate(models, start=1)
        }
        self.told: list[tuple[str, bool]] = []

    def model(self, name: str) -> Held | None:
        return self.held.get(name)

    def model_passed(self, name: str) -> None:
        self.told.append((name, True))

    def model_failed(self, name: str, why: str) -> None:
        self.told.append((name, False))


@pytest.fixture
def server() -> Iterator[OfflineServer]:
    with OfflineServer(("127.0.0.1", 0), allow_faults=True) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join(timeout=5)


@pytest.fixture
def client(server: OfflineServer) -> Iterator[anthropic.Anthropic]:
    with open_client(threads=1, base_url=server.base_url, api_key="test") as opened:
        yield opened


def models(client: anthropic.Anthropic, holds: Holds) -> AnthropicModels:
    return AnthropicModels(client, tiers=TIERS, profile=PROFILES["anthropic"], holds=holds)


@pytest.mark.parametrize("reason", ["paused", "circuit"])
def test_a_held_model_is_passed_over_with_its_reason(client: anthropic.Anthropic, reason: str) -> None:
    quote = models(client, Kept("medium-1", reason=reason)).quote(ASKED)
    assert quote.model == "large-1"
    assert f"fell back from medium-1 (medium-1 is {reason})" in quote.routed_because


def test_when_all_are_held_the_step_waits_for_the_first_that_comes_back(client: anthropic.Anthropic) -> None:
    holds = Kept("large-1", "small-1", "medium-1", reason="circuit")
    with pytest.raises(ModelHeld) as hold:
        models(client, holds).quote(ASKED)
    assert hold.value.held == holds.held["large-1"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (None, [("medium-1", True)]),
        ("server_error", [("medium-1", False)]),
        ("overloaded", [("medium-1", False)]),
        ("rate_limited", []),
        ("refusal", [("medium-1", True)]),
    ],
)
def test_an_outage_counts_and_a_refusal_or_a_limit_does_not(
    server: OfflineServer, client: anthropic.Anthropic, fault: str | None, told: list[tuple[str, bool]]
) -> None:
    holds = Kept()
    asked = models(client, holds)
    if fault is not None:
        server.faults.replace([{"kind": fault}])
    with suppress(ChargehandError):
        asked.call(ASKED)
    assert holds.told == told


def test_a_request_that_the_server_rejects_does_not_count(client: anthropic.Anthropic) -> None:
    holds = Kept()
    bad = ModelCall(tier="medium", system=[], tools=[], messages=[{"role": "nobody", "content": "?"}])
    with pytest.raises(ChargehandError):
        models(client, holds).call(bad)
    assert holds.told == []


def test_what_is_outside_is_told_from_what_was_asked_wrongly() -> None:
    class ConnectTimeout(Exception):
        """As an HTTP library names it."""

    outside: list[Exception] = [Unavailable("index"), TimeoutError(), ConnectionResetError(), ConnectTimeout()]
    assert all(is_outside(error) for error in outside)
    wrong: list[Exception] = [ValueError(), KeyError(), FileNotFoundError(), PermissionError(), ZeroDivisionError()]
    assert not any(is_outside(error) for error in wrong)
