"""What tests of the wire say to a server, and two servers: ours, and one that answers whatever it likes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2

from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.interface import ModelCall
from chargehand.workers.models.profiles import PROFILES, Profile
from chargehand.workers.models.router import Tiers
from chargehand.workers.offline.server import OfflineServer

TIERS = Tiers(small="claude-haiku-5-5", medium="claude-sonnet-5-5", large="claude-opus-5-5")
PLAN_TOOL: dict[str, Any] = {
    "name": "submit_plan",
    "description": "Finish.",
    "input_schema": {"type": "object", "properties": {"rationale": {"type": "string"}, "steps": {"type": "array"}}},
}
OPENING = "<run>\n<goal>\nWhere is the cache?\n</goal>\n<repository>\n{}\n</repository>\n</run>"
TASK = "<task>\nPlan.\n</task>\n<arguments>\n{}\n</arguments>\n<inputs>\n{}\n</inputs>"


@contextmanager
def serving(**options: Any) -> Iterator[OfflineServer]:
    """A running server."""
    with OfflineServer(("127.0.0.1", 0), allow_faults=True, **options) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join(timeout=5)


def models_over(
    client: anthropic.Anthropic, *, profile: Profile = PROFILES["anthropic"], **options: Any
) -> AnthropicModels:
    """Models with our tiers."""
    return AnthropicModels(client, tiers=TIERS, profile=profile, **options)


def call(*, tier: str = "large", padding: int = 0, **changes: Any) -> ModelCall:
    """A planner's call; `padding` bytes make its system text long enough for the cache."""
    values: dict[str, Any] = {
        "tier": tier,
        "system": [
            {"type": "text", "text": "You plan." + " and plan" * (padding // 9), "cache_control": {"type": "ephemeral"}}
        ],
        "tools": [PLAN_TOOL],
        "messages": [{"role": "user", "content": [{"type": "text", "text": OPENING}, {"type": "text", "text": TASK}]}],
        "max_tokens": 4096,
        "model": "claude-opus-5-5",
    }
    return ModelCall(**{**values, **changes})


def faults(server: OfflineServer, **fault: Any) -> None:
    """The next calls fail like this."""
    server.faults.replace([fault])


def foreign(answer: Callable[[httpx2.Request], httpx2.Response]) -> anthropic.Anthropic:
    """The SDK over a server that says whatever it likes."""
    transport = httpx2.MockTransport(answer)
    return anthropic.Anthropic(
        base_url="http://server.test", api_key="test", max_retries=0, http_client=httpx2.Client(transport=transport)
    )


def message(**changes: Any) -> dict[str, Any]:
    """A message of a server."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5-20260901",
        "content": [{"type": "text", "text": "Yes."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1_000, "output_tokens": 100},
        **changes,
    }
