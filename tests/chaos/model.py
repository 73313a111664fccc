"""The model's server of the harness: answers by rules, fails by a seed, and reports each call to the ledger.

It is the offline model with two parts exchanged: which fault strikes a call, and who writes the calls down. A call is
reported when it arrives, and again when its outcome is decided, before the first byte of the answer is sent: an answer
that nobody receives was still paid for.
"""

import argparse
import hashlib
import json
import random
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.ledger import Ledger
from chargehand.workers.offline import policies
from chargehand.workers.offline.conversation import Conversation
from chargehand.workers.offline.faults import Fault
from chargehand.workers.offline.policies.moves import Move, finish
from chargehand.workers.offline.server import MessagesHandler, OfflineServer

# As `docs/models.md` names it.
REQUEST_ID_HEADER = "X-Client-Request-Id"
# Whoever opens this door of the ledger ends all faults.
HEALED = "healed"
# Longer than any time-out of a client: only the client ends it.
FOR_EVER_SECONDS = 3_600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gust:
    """One way to fail, and how often in a hundred calls."""

    percent: int
    fault: Mapping[str, Any]


# A fifth of all calls goes wrong in some way.
WEATHER = (
    Gust(percent=3, fault={"kind": "rate_limited", "retry_after_seconds": 0.5}),
    Gust(percent=1, fault={"kind": "rate_limited", "retry_after_seconds": 6.0}),
    Gust(percent=1, fault={"kind": "rate_limited"}),
    Gust(percent=2, fault={"kind": "overloaded", "retry_after_seconds": 1.0}),
    Gust(percent=1, fault={"kind": "overloaded"}),
    Gust(percent=1, fault={"kind": "server_error"}),
    Gust(percent=2, fault={"kind": "cut_stream"}),
    Gust(percent=2, fault={"kind": "pings", "seconds": FOR_EVER_SECONDS}),
    Gust(percent=2, fault={"kind": "lost_after_billing", "seconds": 0.2}),
    Gust(percent=1, fault={"kind": "lost_after_billing", "seconds": FOR_EVER_SECONDS}),
    Gust(percent=4, fault={"kind": "delay", "seconds": 2.0}),
)


class Weather:
    """Strikes calls by a seed until the harness heals; without a seed it is calm."""

    def __init__(self, ledger: Ledger, seed: int | None) -> None:
        """The first call takes the seed's first number."""
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._calm = seed is None
        self._lock = threading.Lock()

    def take(self, request: Mapping[str, Any]) -> Fault | None:
        """The fault that strikes this call."""
        del request
        with self._lock:
            self._calm = self._calm or self._ledger.is_open(HEALED)
            if self._calm:
                return None
            gusts = self._chance.choices(
                (None, *WEATHER), weights=(100 - sum(gust.percent for gust in WEATHER), *(g.percent for g in WEATHER))
            )
        return Fault(**gusts[0].fault) if gusts[0] is not None else None


class ReportedCalls:
    """What the offline server takes for its own record of calls; a thread serves one connection, one call at a time."""

    def __init__(self, ledger: Ledger) -> None:
        """Nothing has arrived."""
        self._ledger = ledger
        self._arrived = threading.local()

    def receive(self, request_id: str, request: Mapping[str, Any]) -> None:
        """A call has arrived."""
        names = [str(tool.get("name", "")) for tool in request.get("tools") or ()]
        body = json.dumps({name: value for name, value in request.items() if name != "stream"}, sort_keys=True)
        self._arrived.receipt = self._ledger.call_received(
            request_id,
            model=str(request.get("model")),
            finish_tool=next((name for name in names if name.startswith("submit_")), ""),
            prompt_hash=hashlib.sha256(body.encode(errors="surrogatepass")).hexdigest(),
            stream=bool(request.get("stream")),
        )

    def record(self, path: str, request: Mapping[str, Any], *, outcome: str, billed: bool, **tokens: int) -> None:
        """What becomes of the call is decided."""
        del path, request
        self._ledger.call_answered(self._arrived.receipt, outcome=outcome, billed=billed, tokens=tokens)


class ReportingHandler(MessagesHandler):
    """One connection."""

    def _messages(self, path: str, request: Any) -> None:
        ledger = self.server.ledger
        assert isinstance(ledger, ReportedCalls)
        ledger.receive(self.headers.get(REQUEST_ID_HEADER, ""), request if isinstance(request, dict) else {})
        super()._messages(path, request)


def run_errands(conversation: Conversation) -> Move:
    """One errand of the step's arguments a turn, then the end; what came of them is the ledger's to say."""
    arguments = conversation.arguments
    errands, done = arguments["errands"], len(conversation.calls)
    if done == len(errands):
        return finish("submit_result", "All errands are run.", done=done)
    return Move(
        says=f"Errand {done + 1} of {len(errands)}.",
        calls=((errands[done], {"number": done, "seconds": arguments["seconds"]}),),
    )


def serve(ledger: Ledger, *, port: int, seed: int | None, delay_seconds: float = 0.0) -> OfflineServer:
    """The server, ready to serve."""
    server = OfflineServer(("127.0.0.1", port), allow_faults=True, delay_seconds=delay_seconds)
    server.RequestHandlerClass = ReportingHandler
    server.faults = Weather(ledger, seed)  # type: ignore[assignment]
    server.ledger = ReportedCalls(ledger)  # type: ignore[assignment]
    return server


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="chaos.model", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True, help="folder of the ledger")
    parser.add_argument("--weather", type=int, default=None, help="seed of the faults; without it there are none")
    parser.add_argument("--delay-seconds", type=float, default=0.0)
    options = parser.parse_args()
    # Roles of the harness end with a result of their own; nobody else does in this process, which is why it is its own.
    policies.POLICIES = {**policies.POLICIES, "submit_result": run_errands}  # type: ignore[misc]
    ledger = Ledger(options.ledger)
    with serve(ledger, port=options.port, seed=options.weather, delay_seconds=options.delay_seconds) as server:
        # `shutdown` waits for the loop that runs in this very thread.
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
