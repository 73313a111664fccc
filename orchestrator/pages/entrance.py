"""`/sign-in`: a key is shown once, and a cookie stands for it from then on; and the files that all pages need."""

import logging
import mimetypes
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from chargehand.orchestrator import sign_ins
from chargehand.orchestrator.api.state import state_of
from chargehand.orchestrator.pages.rendering import STATIC, page
from chargehand.orchestrator.pages.visitors import COOKIE, PageRoute, Posted, check_form, visitor_of

log = logging.getLogger(__name__)

router = APIRouter(route_class=PageRoute, include_in_schema=False)

# Its address has the file's hash in it.
FOR_EVER = "public, max-age=31536000, immutable"


@router.get("/")
def home() -> Response:
    """The runs are what most come for."""
    return RedirectResponse("/runs", status_code=303)


@router.get("/static/{name}")
def static_file(name: str) -> Response:
    """A style or a script."""
    if name not in {one.name for one in STATIC.iterdir()}:
        return Response(status_code=404)
    media_type = mimetypes.guess_type(name)[0]
    return FileResponse(STATIC / name, media_type=media_type, headers={"Cache-Control": FOR_EVER})


@router.get("/sign-in")
def ask_for_key(wanted: Annotated[str, Query(alias="next", max_length=300)] = "/runs") -> Response:
    """Ask for a key."""
    return page("sign_in.html", wanted=_own(wanted), refused=False, visitor=None, here="")


@router.post("/sign-in")
def sign_in(request: Request, form: Posted) -> Response:
    """Take the key, and let the browser in."""
    state = state_of(request)
    holder = state.keyring.holder(form.get("key", "").strip())
    wanted = _own(form.get("next", ""))
    if holder is None:
        log.warning("sign-in refused", extra={"address": request.client.host if request.client else ""})
        return page("sign_in.html", status_code=403, wanted=wanted, refused=True, visitor=None, here="")
    with state.services.session(holder.tenant) as session:
        secret = sign_ins.begin(session, holder)
    answer = RedirectResponse(wanted, status_code=303)
    answer.set_cookie(
        COOKIE,
        secret,
        max_age=int(sign_ins.GOOD_FOR.total_seconds()),
        httponly=True,
        # A link from elsewhere (a chat, Flower) is to work; forms carry a proof of their own.
        samesite="lax",
        # Of the browser's connection, as a proxy that is trusted says.
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/sign-out")
def sign_out(request: Request, form: Posted) -> Response:
    """Forget the browser."""
    visitor = visitor_of(request)
    check_form(visitor, form)
    with visitor.client.session() as session:
        sign_ins.end(session, visitor.holder, visitor.secret)
    answer = RedirectResponse("/sign-in", status_code=303)
    answer.delete_cookie(COOKIE)
    return answer


def _own(address: str) -> str:
    """A path of this site; another site's address is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/runs"
    is_own = not parts.scheme and not parts.netloc and address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if is_own and "\\" not in address and address.isprintable() else "/runs"
