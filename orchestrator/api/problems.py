"""Errors as programs read them: `application/problem+json` (RFC 9457), whatever went wrong and wherever."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DataError
from starlette.exceptions import HTTPException

from chargehand.memory.git import StorageFull
from chargehand.memory.model_check import MixedModels
from chargehand.memory.procedural import InvalidRole, RoleNotFound
from chargehand.memory.sources import RepositoryUnreadable
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

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
# The name of each error in `type`; `HttpClient` raises by it what `Client` would.
NAMES: Mapping[str, type[Exception]] = {
    "not-found": NotFound,
    "concurrency-conflict": ConcurrencyConflict,
    "run-ended": RunEnded,
    "invalid-plan": InvalidPlan,
    "invalid-goal": InvalidGoal,
    "invalid-budget": InvalidBudget,
    "invalid-workspace": InvalidWorkspace,
    "invalid-request": UserError,
    "unavailable": Unavailable,
}
_STATUS = {"not-found": 404, "concurrency-conflict": 409, "run-ended": 409, "unavailable": 503}
_TITLES = {
    400: "The request cannot be read",
    401: "No valid key",
    403: "The key may not do this",
    404: "Not found",
    405: "This cannot be done here",
    409: "Not as things stand",
    413: "The request is too large",
    422: "The request is wrong",
    429: "Too many requests",
    500: "Chargehand made a mistake",
    503: "Try later",
}
RETRY_SECONDS = 2
UNSTORABLE = "A text of the request cannot be stored; leave out NUL characters."


class Mistake(BaseModel):
    """One field that is wrong."""

    pointer: str
    """Where: a JSON pointer into the body, or `query.NAME`, `path.NAME`, `header.NAME`."""
    detail: str


class Problem(BaseModel):
    """What is wrong, for programs and people."""

    type: str
    """`urn:chargehand:problem:NAME`"""
    title: str
    status: int
    detail: str
    errors: list[Mistake] = []
    """Of a request that does not fit the schema."""
    steps: list[str] = []
    """Of a plan: keys that lead to the step that is wrong, from the outermost inwards."""


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors, as OpenAPI says them."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _TITLES[status], "content": content} for status in statuses}


# What any request with a key can meet.
COMMON = documented(400, 401, 403, 404, 409, 413, 422, 429, 503)


class Refused(Exception):
    """A request that is answered by this problem; raised by dependencies, before anything is done."""

    def __init__(self, status: int, name: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.name, self.detail, self.headers = status, name, detail, dict(headers or {})


def answer(
    status: int,
    name: str,
    detail: str,
    *,
    errors: list[Mistake] | None = None,
    steps: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The problem as a response."""
    problem = Problem(
        type=f"urn:chargehand:problem:{name}",
        title=_TITLES.get(status, "The request failed"),
        status=status,
        detail=detail,
        errors=errors or [],
        steps=list(steps),
    )
    return JSONResponse(
        problem.model_dump(exclude_defaults=True), status_code=status, media_type=MEDIA_TYPE, headers=headers
    )


def install(app: FastAPI) -> None:
    """Answer every error of this app by a problem."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(MixedModels, _unavailable)
    for kind in (UserError, RepositoryUnreadable, InvalidRole, RoleNotFound, StorageFull, DataError):
        app.add_exception_handler(kind, _user_error)
    app.add_exception_handler(Exception, _unforeseen)


def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, Refused)
    return answer(error.status, error.name, error.detail, headers=error.headers)


def _invalid(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    mistakes = error.errors()
    if any(one["type"] == "json_invalid" for one in mistakes):
        return answer(400, "unreadable", f"The body is not JSON: {mistakes[0].get('ctx', {}).get('error', '')}.")
    errors = [Mistake(pointer=_pointer(one["loc"]), detail=str(one["msg"])) for one in mistakes]
    detail = "; ".join(f"{one.pointer}: {one.detail}" for one in errors[:5])
    return answer(422, "invalid-request", detail, errors=errors)


def _pointer(place: tuple[str | int, ...]) -> str:
    where, *rest = place
    if where == "body":
        return "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in rest)
    return ".".join(map(str, place))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    names = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
    details = {
        404: f"There is nothing at {request.url.path[:200]!r}.",
        405: f"{request.method} is not possible at {request.url.path[:200]!r}.",
    }
    name = names.get(error.status_code, "unreadable")
    detail = details.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # Starlette names the methods of the first route of this path only.
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer(error.status_code, name, detail, headers=headers)


def _methods(request: Request) -> set[str]:
    """What is possible at the path of this request."""
    paths: dict[str, dict[str, object]] = request.app.openapi()["paths"]
    possible: set[str] = set()
    for path, operations in paths.items():
        pattern = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"({[^}]*})", path))
        if re.fullmatch(pattern, request.url.path):
            possible |= {method.upper() for method in operations}
    return possible


def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("request not served", extra={"path": request.url.path, "error": str(error)})
    return answer(503, "unavailable", str(error), headers={"Retry-After": str(RETRY_SECONDS)})


def _user_error(request: Request, error: Exception) -> Response:
    if isinstance(error, StorageFull):
        return _unavailable(request, error)
    if isinstance(error, DataError):
        # Only text that Postgres cannot hold comes so far: NUL, and halves of surrogate pairs.
        return answer(422, "invalid-request", UNSTORABLE)
    name = next((name for name, kind in NAMES.items() if type(error) is kind), "invalid-request")
    steps = error.steps if isinstance(error, InvalidPlan) else ()
    return answer(_STATUS.get(name, 422), name, str(error), steps=steps)


def _unforeseen(request: Request, error: Exception) -> Response:
    log.error("request failed", exc_info=error, extra={"path": request.url.path, "method": request.method})
    return answer(500, "mistake", "The server's log has the cause.")
