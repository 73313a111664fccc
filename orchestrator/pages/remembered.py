"""`/memory`: what agents remember, searched as they search it."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from chargehand.memory.beliefs import LIBRARY
from chargehand.orchestrator.highlights import highlights
from chargehand.orchestrator.pages.rendering import page
from chargehand.orchestrator.pages.visitors import PageRoute, Reader

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MOST_FOUND = 20


@router.get("/memory")
def search(
    visitor: Reader,
    q: Annotated[str, Query(max_length=2_000)] = "",
    scope: Annotated[str, Query(max_length=200)] = LIBRARY,
) -> Response:
    """What answers the question, and how much is known at all."""
    memory = visitor.client.memory
    found = memory.search(q, scope=scope or LIBRARY, limit=MOST_FOUND) if q.strip() else ()
    return page(
        "memory.html",
        visitor=visitor,
        here="memory",
        q=q,
        scope=scope or LIBRARY,
        found=[(one, marked(one.text, q)) for one in found],
        holdings=memory.stats(),
    )


def marked(text: str, query: str) -> list[tuple[str, bool]]:
    """The text in pieces, and of each whether the question has asked for it."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, end in highlights(text, query):
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [(piece, is_asked) for piece, is_asked in [*pieces, (text[at:], False)] if piece]
