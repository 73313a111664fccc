"""Models whose server is the offline one, with its batch API."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anthropic

from chargehand.orchestrator.prices import PRICES
from chargehand.workers.models.client import AnthropicModels
from chargehand.workers.models.profiles import PROFILES
from chargehand.workers.models.router import Tiers
from chargehand.workers.offline import MODEL
from chargehand.workers.offline.server import OfflineServer

NAME = "claude-opus-5-5"


@contextmanager
def serving(*, batch_seconds: float = 0.0) -> Iterator[OfflineServer]:
    """A server whose batches take so long."""
    with OfflineServer(("127.0.0.1", 0), allow_faults=True) as server:
        server.batches.delay_seconds = batch_seconds
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=5)


@contextmanager
def models_of(server: OfflineServer, *, profile: str = "anthropic") -> Iterator[AnthropicModels]:
    """What asks it, at the prices of a dear model."""
    with anthropic.Anthropic(base_url=server.base_url, api_key="none", max_retries=0) as client:
        tiers = Tiers(small=NAME, medium=NAME, large=NAME)
        yield AnthropicModels(client, tiers=tiers, profile=PROFILES[profile], prices={**PRICES, MODEL: PRICES[NAME]})
