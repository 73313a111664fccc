"""Batches of the offline server, in memory: answered when a delay is over, unless cancelled, gone with the process."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

PATH = "/v1/messages/batches"
MOST_LISTED = 1_000
# Its dates only differ by what has passed: nobody sets a clock by them.
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


# What becomes of a request: its parameters → its result.
Answer = Callable[[Any], dict[str, Any]]
_CANCELLED = {"type": "canceled"}


@dataclass(kw_only=True, slots=True)
class _Batch:
    id: str
    made_at: float
    created: datetime
    requests: Sequence[Mapping[str, Any]]
    result_of: Answer
    cancelled_at: float | None = None
    results: tuple[dict[str, Any], ...] = field(default=())
    """Of one that has ended."""


class BatchStore:
    """What was handed in, newest last; safe to use from many threads."""

    def __init__(self, delay_seconds: float = 0.0) -> None:
        """`delay_seconds`: how long each batch takes."""
        self.delay_seconds = delay_seconds
        self.answered_when_cancelled = 0
        """So many requests of a batch that is cancelled had begun: they are answered, and billed, all the same."""
        self._batches: dict[str, _Batch] = {}
        self._lock = threading.Lock()

    def make(self, requests: Sequence[Mapping[str, Any]], result_of: Answer) -> dict[str, Any]:
        """Take the requests of one batch; `result_of` gives each one's result, once it has ended."""
        with self._lock:
            name = f"msgbatch_offline_{len(self._batches) + 1}"
            made_at = time.monotonic()
            created = BEGINNING + timedelta(seconds=made_at)
            batch = _Batch(id=name, made_at=made_at, created=created, requests=requests, result_of=result_of)
            self._batches[name] = batch
            self._has_ended(batch)
        return self._told(batch, "")

    def cancel(self, name: str) -> dict[str, Any] | None:
        """End a batch; one that has ended stays as it is. What was not begun is not answered."""
        batch = self._batches.get(name)
        if batch is None:
            return None
        with self._lock:
            if not self._has_ended(batch):
                batch.cancelled_at = time.monotonic()
        return {**self._told(batch, ""), "processing_status": "canceling", "ended_at": None}

    def listed(self, limit: int, base_url: str) -> dict[str, Any]:
        """The newest ones first."""
        with self._lock:
            newest = list(self._batches.values())[::-1]
        shown = [self._told(batch, base_url) for batch in newest[: min(limit, MOST_LISTED)]]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        return {"data": shown, "has_more": len(newest) > len(shown), "first_id": None, "last_id": None, **ends}

    def told(self, name: str, base_url: str) -> dict[str, Any] | None:
        """One batch as the API shows it."""
        batch = self._batches.get(name)
        return None if batch is None else self._told(batch, base_url)

    def results(self, name: str) -> tuple[dict[str, Any], ...] | None:
        """The results of a batch that has ended."""
        batch = self._batches.get(name)
        with self._lock:
            return batch.results if batch is not None and self._has_ended(batch) else None

    def _has_ended(self, batch: _Batch) -> bool:
        """Whether it has, with its results if so; the caller holds the lock."""
        if batch.results:
            return True
        is_cancelled = batch.cancelled_at is not None
        if not is_cancelled and time.monotonic() < batch.made_at + self.delay_seconds:
            return False
        begun = self.answered_when_cancelled if is_cancelled else len(batch.requests)
        batch.results = tuple(
            {"custom_id": one["custom_id"], "result": batch.result_of(one["params"]) if place < begun else _CANCELLED}
            for place, one in enumerate(batch.requests)
        )
        return True

    def _told(self, batch: _Batch, base_url: str) -> dict[str, Any]:
        with self._lock:
            ended = self._has_ended(batch)
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["processing"] = 0 if ended else len(batch.requests)
        for one in batch.results:
            counts[one["result"]["type"]] += 1
        took = self.delay_seconds if batch.cancelled_at is None else batch.cancelled_at - batch.made_at
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": batch.created.isoformat(),
            "expires_at": (batch.created + timedelta(days=1)).isoformat(),
            "ended_at": (batch.created + timedelta(seconds=took)).isoformat() if ended else None,
            "archived_at": None,
            "cancel_initiated_at": (batch.created + timedelta(seconds=took)).isoformat()
            if batch.cancelled_at is not None
            else None,
            "results_url": f"{base_url}{PATH}/{batch.id}/results" if ended else None,
        }


def wrong_with(body: Any) -> str:
    """Why the body of a batch is refused; empty: it is not."""
    requests = body.get("requests") if isinstance(body, dict) else None
    if not isinstance(requests, list) or not requests:
        return "requests: Field required"
    for one in requests:
        if not isinstance(one, dict) or not isinstance(one.get("custom_id"), str) or "params" not in one:
            return "requests: custom_id and params are required"
    names = [one["custom_id"] for one in requests]
    return "requests: custom_id must be unique" if len(set(names)) != len(names) else ""
