"""The tool `fetch_output`: a result of an earlier turn that was left out of the conversation to make room.

It is offered to every role, and only once something was left out.
"""

from typing import Annotated

from pydantic import Field

from chargehand.workers.tools.registry import ToolContext, ToolOutput, ToolRetry, make_tool


def _fetch_output(
    tool_use_id: Annotated[str, Field(max_length=200, description="As the reference has it.")],
    context: ToolContext,
    offset: Annotated[int, Field(ge=0, description="Character to begin at.")] = 0,
) -> ToolOutput:
    """Fetch the output of one of your earlier tool calls that was left out of the conversation to make room."""
    fact = next((one for one in reversed(context.finished) if one.tool_use_id == tool_use_id), None)
    if fact is None:
        raise ToolRetry(f"None of your calls was {tool_use_id!r}; take the id from a reference.")
    return ToolOutput(content=fact.content[offset:], reads=fact.reads)


fetch_output = make_tool(_fetch_output, effect="pure", name="fetch_output")
