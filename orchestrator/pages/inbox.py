"""`/inbox`: what agents ask people, with the evidence, and the answers that were offered."""

import json
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import JsonValue
from sqlalchemy import func, select

from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.pages.evidence import evidence_of
from chargehand.orchestrator.pages.rendering import page
from chargehand.orchestrator.pages.visitors import Operator, PageRoute, Posted, Reader

router = APIRouter(route_class=PageRoute, include_in_schema=False)

# What an option means, for those that need more than a click.
WITH_TEXT = frozenset({"answer"})
WITH_RESULT = frozenset({"override"})


@router.get("/inbox")
def inbox(visitor: Reader, run: Annotated[UUID | None, Query()] = None, said: str = "") -> Response:
    """The open questions, oldest first."""
    asked = visitor.client.escalations(run)
    with visitor.client.session() as session:
        now = session.scalars(select(func.clock_timestamp())).one()
        evidence = {one.wait_id: evidence_of(session, one) for one in asked}
    return page(
        "inbox.html",
        visitor=visitor,
        here="inbox",
        asked=asked,
        evidence=evidence,
        now=now,
        said=SAID.get(said, ""),
        with_text=WITH_TEXT,
        with_result=WITH_RESULT,
        only_run=run,
    )


@router.post("/inbox")
def answer(visitor: Operator, form: Posted) -> Response:
    """Take an answer: the first one counts, whoever else looks at the same question."""
    wait_id, choice = form.get("wait_id", ""), form.get("choice", "")
    asked = next((one for one in visitor.client.escalations(each=True) if str(one.wait_id) == wait_id), None)
    if asked is None:
        return RedirectResponse("/inbox?said=late", status_code=303)
    if not choice:
        raise NotFound("No answer was chosen; load the page again.")
    first = visitor.client.answer(
        asked, choice, _body(choice, form), by=form.get("by", "").strip() or None, only=form.get("only") == "yes"
    )
    return RedirectResponse(f"/inbox?said={'taken' if first else 'late'}", status_code=303)


SAID = {
    "taken": "Your answer was taken; the step goes on.",
    "late": "Somebody else was first, or the step has ended meanwhile: your answer was not taken.",
}


def _body(choice: str, form: Posted) -> JsonValue:
    typed = form.get("text", "").replace("\r\n", "\n")
    if choice in WITH_RESULT:
        try:
            given: JsonValue = json.loads(typed) if typed.strip() else None
        except ValueError as error:
            raise UserError(f"The result is no JSON ({error}); a text is written in quotes.") from error
        return given
    return typed or None
