"""Who looks at a page: a browser that signed in; what it may do, and the proof that a form is one of ours."""

import hashlib
import hmac
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import DataError

from chargehand.memory.model_check import MixedModels
from chargehand.orchestrator import sign_ins
from chargehand.orchestrator.api.problems import UNSTORABLE
from chargehand.orchestrator.api.state import state_of
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import ChargehandError, NotFound, Unavailable, UserError
from chargehand.orchestrator.keys import Holder
from chargehand.orchestrator.pages.rendering import page

COOKIE = "chargehand_sign_in"
# A goal and its plan; what a person types is far shorter.
MOST_FORM_BYTES = 200_000


class NotSignedIn(Exception):
    """The visitor is to show a key first."""


class Forbidden(Exception):
    """The visitor's key is not good for this, or the form is none that we gave them."""


class TooOften(Exception):
    """The visitor's key has asked too often; by the pages and the API together."""

    def __init__(self, wait_seconds: float) -> None:
        super().__init__(f"This key has asked too often; again in {wait_seconds:.2f} s.")
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Somebody who signed in."""

    client: Client
    holder: Holder
    secret: str

    @property
    def name(self) -> str:
        """What the key is called."""
        return self.holder.name

    @property
    def form_proof(self) -> str:
        """Goes with each form: another site cannot know it."""
        return hashlib.sha256(b"form " + self.secret.encode()).hexdigest()

    def may(self, scope: str) -> bool:
        """Whether their key has the scope."""
        return self.holder.may(scope)


def visitor_of(request: Request) -> Visitor:
    """The visitor; raises `NotSignedIn`."""
    state, secret = state_of(request), request.cookies.get(COOKIE, "")
    holder = sign_ins.holder_of(state.services.engine, secret) if secret else None
    if holder is None:
        raise NotSignedIn
    client = Client.sharing(state.services, tenant=holder.tenant, name=f"key {holder.name}")
    return Visitor(client=client, holder=holder, secret=secret)


def is_still_in(request: Request) -> bool:
    """Whether the visitor of a request that is still being answered has not left; yes while nobody can tell."""
    try:
        return visitor_of(request).may("read")
    except NotSignedIn:
        return False
    except Unavailable:
        return True


def needs(scope: str) -> Callable[[Request], Visitor]:
    """A dependency: the visitor, if their key has the scope."""

    def visitor(request: Request) -> Visitor:
        found = visitor_of(request)
        if not found.may(scope):
            raise Forbidden(f"This needs a key with the scope {scope!r}; yours has: {', '.join(found.holder.scopes)}.")
        wait_seconds = state_of(request).rate_limit.wait_seconds(found.holder.key_id)
        if wait_seconds > 0:
            raise TooOften(wait_seconds)
        return found

    return visitor


async def posted(request: Request) -> Mapping[str, str]:
    """The fields of a form of ours, as a browser sends them; raises `UserError`, and `Forbidden` for another site's."""
    # A sign-in has no proof yet: another site could sign the browser in with a key of its own, and read what is asked
    # there from then on. No script can forge the header; browsers send it by HTTPS and to this machine.
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("The form came from another site; load the page again.")
    body = await request.body()
    if len(body) > MOST_FORM_BYTES:
        raise UserError(f"The form has {len(body):,} bytes; at most {MOST_FORM_BYTES:,} are taken.")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=50))
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError("The form cannot be read; load the page again.") from error


Posted = Annotated[Mapping[str, str], Depends(posted)]


def check_form(visitor: Visitor, form: Mapping[str, str]) -> None:
    """Raise `Forbidden` unless the form is one that we gave this visitor."""
    if not hmac.compare_digest(form.get("proof", "").encode(), visitor.form_proof.encode()):
        raise Forbidden("The form is none that you were given here; load the page again.")


def acts(scope: str) -> Callable[[Request, Mapping[str, str]], Visitor]:
    """A dependency: the visitor who sent a form of ours, if their key has the scope."""
    visitor = needs(scope)

    def actor(request: Request, form: Posted) -> Visitor:
        found = visitor(request)
        check_form(found, form)
        return found

    return actor


Reader = Annotated[Visitor, Depends(needs("read"))]
Submitter = Annotated[Visitor, Depends(acts("submit"))]
Operator = Annotated[Visitor, Depends(acts("operate"))]


class PageRoute(APIRoute):
    """What goes wrong is told on a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors shown."""
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await handle(request)
            except NotSignedIn:
                return RedirectResponse(f"/sign-in?next={quote(_here(request), safe='/')}", status_code=303)
            except Forbidden as error:
                return _problem(request, 403, "Not allowed", str(error))
            except TooOften as error:
                answer = _problem(request, 429, "Too many requests", str(error))
                answer.headers["Retry-After"] = str(math.ceil(error.wait_seconds))
                return answer
            except RequestValidationError as error:
                return _problem(request, 422, "The address is wrong", _mistakes(error))
            except DataError:
                return _problem(request, 400, "This cannot be done", UNSTORABLE)
            except NotFound as error:
                return _problem(request, 404, "Not found", str(error))
            except (Unavailable, MixedModels) as error:
                return _problem(request, 503, "Not available now", str(error))
            except ChargehandError as error:
                return _problem(request, 400, "This cannot be done", str(error))

        return shown


def _here(request: Request) -> str:
    """Where somebody who signs in wants to go on."""
    return request.url.path if request.method == "GET" else "/runs"


def _mistakes(error: RequestValidationError) -> str:
    """Which parts of the address are wrong, in words."""
    told = [f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()[:5]]
    return f"{'; '.join(told)}. Correct it, or go on from one of the pages above."


def _problem(request: Request, status_code: int, title: str, detail: str) -> Response:
    try:
        visitor = visitor_of(request)
    except (NotSignedIn, Unavailable):
        visitor = None
    return page("problem.html", status_code=status_code, title=title, detail=detail, visitor=visitor, here="")
