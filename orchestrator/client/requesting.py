"""Requests of a client of the HTTP API, and what comes back: an answer, or the error that `Client` would raise."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx2

from chargehand.orchestrator.errors import (
    ConcurrencyConflict,
    InvalidBudget,
    InvalidGoal,
    InvalidPlan,
    InvalidWorkspace,
    NotFound,
    RunEnded,
    Unavailable,
    UserError,
)
from chargehand.orchestrator.telemetry.following import callers_traceparent

TIMEOUT_SECONDS = 30.0
# A server that restarts is back within seconds; what may be sent again is.
ATTEMPTS = 5
BACKOFF_SECONDS = 0.25
# By the last part of a problem's type; what is not here is a `UserError`.
ERRORS: Mapping[str, type[Exception]] = {
    "not-found": NotFound,
    "concurrency-conflict": ConcurrencyConflict,
    "run-ended": RunEnded,
    "invalid-goal": InvalidGoal,
    "invalid-budget": InvalidBudget,
    "invalid-workspace": InvalidWorkspace,
    "unavailable": Unavailable,
    "too-many-requests": Unavailable,
    "mistake": Unavailable,
}


class Requests:
    """Asks one server with one key; any thread may call it."""

    def __init__(self, url: str, key: str, *, transport: httpx2.BaseTransport | None = None) -> None:
        """Nothing is connected yet."""
        if not url.startswith(("http://", "https://")):
            raise UserError(f"URL {url!r} is none of an HTTP API; give for example https://chargehand.example.")
        self._client = httpx2.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_SECONDS,
            transport=transport,
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """What is there; asked again when the server is away for a moment."""
        return self._again("GET", path, params=query)

    def content(self, path: str) -> bytes:
        """The bytes that are there."""
        return self._sent("GET", path).content

    def post(self, path: str, body: object = None, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:
        """What came of it. Sent once: nobody knows whether a lost request was carried out."""
        answer = self._sent("POST", path, json=body, timeout=timeout_seconds)
        return answer.json() if answer.content else None

    def delete(self, path: str) -> Any:
        """What is gone."""
        answer = self._sent("DELETE", path)
        return answer.json() if answer.content else None

    def made(self, path: str, body: object, *, idempotency_key: str | None) -> UUID:
        """The id of a run that is made once, however often the request is sent."""
        headers = {"Idempotency-Key": idempotency_key or f"sent-{uuid4().hex}"}
        if (trace := callers_traceparent()) is not None:
            headers["traceparent"] = trace
        return UUID(self._again("POST", path, json=body, headers=headers)["run_id"])

    @contextmanager
    def stream(self, path: str, query: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """An answer that is read while it comes; raises `Unavailable` when it is cut."""
        # Longer than between two signs of life.
        timeout = httpx2.Timeout(TIMEOUT_SECONDS, read=60.0)
        try:
            with self._client.stream("GET", path, params=query, headers=headers, timeout=timeout) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                yield answer
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self._client.base_url} does not answer: {error or type(error).__name__}.") from error

    def _again(self, method: str, path: str, **sent: Any) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._sent(method, path, **sent).json()
            except Unavailable:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _sent(self, method: str, path: str, **sent: Any) -> httpx2.Response:
        try:
            answer = self._client.request(method, path, **sent)
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self._client.base_url} does not answer: {error or type(error).__name__}.") from error
        if answer.is_error:
            raise _error(answer)
        return answer


def _error(answer: httpx2.Response) -> Exception:
    try:
        problem = answer.json()
        name, detail = str(problem["type"]).rpartition(":")[2], str(problem["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        # Of a proxy before it.
        said = f"{answer.status_code} {answer.reason_phrase}"
        return Unavailable(f"The server answers {said}.") if answer.is_server_error else UserError(said)
    if name == "invalid-plan":
        return InvalidPlan(detail, steps=tuple(problem.get("steps", ())))
    return ERRORS.get(name, UserError)(detail)
