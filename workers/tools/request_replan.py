"""The tool `request_replan`: an agent says that the plan itself is wrong; its step waits until that was judged."""

from typing import Annotated

from pydantic import Field

from chargehand.orchestrator.replanning import Reason, question, rounds_of
from chargehand.workers.tools.registry import Suspended, ToolContext, ToolOutput, ToolRetry, make_tool


def _request_replan(
    reason: Annotated[
        str,
        Field(min_length=1, max_length=2_000, description="What is wrong with the plan, and what you have seen of it."),
    ],
    context: ToolContext,
) -> ToolOutput:
    """Ask for another plan, when this one rests on something that is not so. You are told what became of it; go on."""
    if context.plan is None or not context.replans:
        raise ToolRetry("The plan of this run is not changed; do what can be done of your task, and say what cannot.")
    done = rounds_of(context.plan.steps)
    if done >= context.replans:
        raise ToolRetry(f"The plan was changed {done} times, and is not again; go on with it as it is.")
    own = context.plan.by_key[context.step_key]
    child = question(
        [Reason(step=own.key, error=reason)],
        context.plan,
        context.statuses,
        number=done + 1,
        of=context.replans,
        asked_by=own,
    )
    raise Suspended(child=child, choice="answer")


request_replan = make_tool(_request_replan, name="request_replan", effect="pure")
