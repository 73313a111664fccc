"""A run behind the HTTP API."""

import json
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx2
from pydantic import JsonValue, TypeAdapter

from chargehand.orchestrator.auditing import Audit
from chargehand.orchestrator.charges import RunCosts
from chargehand.orchestrator.client.interface import AnyRun
from chargehand.orchestrator.client.requesting import Requests
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.explaining import Explanation
from chargehand.orchestrator.replay import Replay
from chargehand.orchestrator.requests import check_message, microusd
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.views import Event, RunView, StepView

_RUN = TypeAdapter(RunView)
_STEPS = TypeAdapter(list[StepView])
_EVENT = TypeAdapter(Event)
_COSTS = TypeAdapter(RunCosts)
_EXPLANATION = TypeAdapter(Explanation)
_AUDIT = TypeAdapter(Audit)
# Folds a whole journal.
REPLAY_SECONDS = 300.0
# A server that is away longer than so many attempts in a row, a second apart, is the caller's to know.
ATTEMPTS = 30
AGAIN_SECONDS = 1.0


class HttpRun(AnyRun):
    """One run of a client."""

    def __init__(self, requests: Requests, run_id: UUID) -> None:
        """A handle does not ask whether the run exists."""
        self._requests = requests
        self.run_id = run_id

    def status(self) -> RunView:
        """The run now; raises `NotFound`."""
        return _RUN.validate_python(self._get())

    def steps(self) -> list[StepView]:
        """Its steps now, in plan order."""
        return _STEPS.validate_python(self._get("/steps"))

    def events(self, *, follow: bool = True, timeout_seconds: float | None = None) -> Iterator[Event]:
        """Its facts as they come, each once; a connection that is cut goes on where it was."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        position, failures = "", 0
        while True:
            try:
                with self._requests.stream(
                    f"/v1/runs/{self.run_id}/events",
                    {"follow": follow},
                    {"Last-Event-ID": position} if position else {},
                ) as answer:
                    for kind, event_id, data in _messages(answer, deadline):
                        if kind == "end":
                            return
                        position, failures = event_id, 0
                        yield _EVENT.validate_python({name: data[name] for name in Event.__slots__})
                if not follow:
                    return
            except Unavailable:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                time.sleep(AGAIN_SECONDS)
            if deadline is not None and time.monotonic() > deadline:
                raise self.has_not_ended(timeout_seconds)

    def wait_for_end(self, timeout_seconds: float | None = None) -> None:
        """Return when the run has ended; raises `WaitTimeout`."""
        if self.status().status in RUN_ENDINGS:
            return
        for _ in self.events(timeout_seconds=timeout_seconds):
            pass

    def given(self) -> JsonValue:
        """What the final steps have given so far."""
        result: JsonValue = self._get("/result")["result"]
        return result

    def artifacts(self) -> dict[str, str]:
        """name → content hash of what its steps kept."""
        return dict(self._get("/artifacts"))

    def blob(self, digest: str) -> bytes:
        """One of its artifacts by content hash; raises `NotFound`."""
        return self._requests.content(f"/v1/runs/{self.run_id}/artifacts/{quote(digest, safe='')}")

    def cancel(self, reason: str = "cancelled by its owner") -> bool:
        """End it now; False when it had ended already."""
        return self._changed("cancel", {"reason": reason})

    def pause(self, reason: str = "") -> bool:
        """Start nothing new and stop running steps at their next commit."""
        return self._changed("pause", {"reason": reason})

    def resume(self) -> bool:
        """Let it go on."""
        return self._changed("resume")

    def raise_budget(self, to_usd: str | Decimal) -> bool:
        """Let it spend this much all in all; False when it may already."""
        return self._changed("budget", {"budget_microusd": microusd(to_usd)})

    def retry(self, step: str) -> tuple[str, ...]:
        """Do a step once more, with all that was built on it; gives the keys of the new steps."""
        return tuple(self._requests.post(f"/v1/runs/{self.run_id}/steps/{quote(step, safe='')}/retry")["steps"])

    def tell(self, message: str) -> None:
        """Leave a message for its agents."""
        self._requests.post(f"/v1/runs/{self.run_id}/tell", {"message": check_message(message)})

    def progress(self) -> dict[str, str]:
        """step key → what a running step says it is doing."""
        return dict(self._get("/progress"))

    def explain(self) -> list[tuple[str, str]]:
        """Why each live step does not go on: step key → reason in words."""
        return [(one["step"], one["why"]) for one in self._get("/explain")]

    def costs(self, *, as_claude: bool = False) -> RunCosts:
        """Where its money went, and what caching and routing saved; `as_claude`: at Claude's prices, by tier."""
        return _COSTS.validate_python(self._get("/costs", {"as_claude": as_claude}))

    def explain_step(self, step: str) -> Explanation:
        """Why one step does not go on, in depth; raises `NotFound`."""
        found = self._get(f"/steps/{quote(step, safe='')}/explain")
        behind = [(one["step"], one["why"]) for one in found["behind"]]
        return _EXPLANATION.validate_python({**found, "behind": behind})

    def replay(self) -> Replay:
        """Do it again from its journal, without models or effects; on the server."""
        return Replay.model_validate(
            self._requests.post(f"/v1/runs/{self.run_id}/replay", timeout_seconds=REPLAY_SECONDS)
        )

    def verify(self) -> Audit:
        """Check every hash of its journal, and the chain of ended runs; on the server."""
        return audit_of(self._requests.post(f"/v1/runs/{self.run_id}/verify"))

    def journal(self) -> Iterator[Mapping[str, JsonValue]]:
        """Every row of its journal with its hashes, as JSON has it, and its anchor last."""
        with self._requests.stream(f"/v1/runs/{self.run_id}/journal", {}, {}) as answer:
            for line in answer.iter_lines():
                yield json.loads(line)

    def partial(self) -> dict[str, JsonValue]:
        """What its succeeded steps gave, by key, where no later one has built on it."""
        return dict(self._get("/result")["partial"])

    def _get(self, path: str = "", query: dict[str, Any] | None = None) -> Any:
        return self._requests.get(f"/v1/runs/{self.run_id}{path}", query)

    def _changed(self, word: str, body: object = None) -> bool:
        return bool(self._requests.post(f"/v1/runs/{self.run_id}/{word}", body)["changed"])


def audit_of(found: Mapping[str, Any]) -> Audit:
    """An audit from the API's answer."""
    return _AUDIT.validate_python({name: found[name] for name in Audit.__slots__})


def _messages(answer: httpx2.Response, deadline: float | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Kind, id and data of each server-sent event; ends when the time is up (a comment tells so, too)."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if deadline is not None and time.monotonic() > deadline:
            return
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
            fields = {}
