"""The tool `recall`: passages of the run's index that are near a question."""

from typing import Annotated

from pydantic import Field

from chargehand.workers.tools.registry import ToolContext, ToolOutput, tool

DEFAULT_PASSAGES = 8
MAX_PASSAGES = 20


@tool(effect="pure")
def recall(
    query: Annotated[str, Field(min_length=1, max_length=2_000, description="A question, or the words to look for.")],
    context: ToolContext,
    limit: Annotated[int, Field(ge=1, le=MAX_PASSAGES, description="Most passages to give.")] = DEFAULT_PASSAGES,
) -> str | ToolOutput:
    """Recall passages of the repository that are near the query in meaning or in words, best first.

    Each comes as `path:first-last` above its numbered lines. What earlier runs taught comes first, below a line that
    says how far it is trusted: check what has trust `content` before you rely on it. Nothing near is no proof of
    absence.
    """
    found = context.recall(query, limit)
    return found or "Nothing in the index is near this; try other words or search_text."
