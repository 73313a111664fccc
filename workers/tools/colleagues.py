"""The tools by which an agent gives work to another role: `delegate` waits for an answer, `hand_off` leaves the task.

Neither runs anything here: the agent's step is suspended, holds no worker, and goes on when the colleague has ended.
Nobody waits in a circle: a role that is at work further up is not asked again, and depth and breadth are capped.
"""

from chargehand.orchestrator.colleagues import objection
from chargehand.orchestrator.plan import Step
from chargehand.workers.tools.registry import Suspended, ToolContext, ToolOutput, ToolRetry, make_tool


def _delegate(to: str, instruction: str, context: ToolContext) -> ToolOutput:
    """Ask a colleague, `to` whose role, for something, and go on with the answer. Say all that they need to know."""
    raise Suspended(child=_child(to, instruction, context), choice="answer")


def _hand_off(to: str, instruction: str, context: ToolContext) -> ToolOutput:
    """Leave your whole task to a colleague who is better placed; their result becomes yours. Say what is done."""
    colleague = context.colleagues.get(to)
    mine = context.colleagues.get(_own_role(context))
    if colleague is not None and mine is not None and colleague.output != mine.output:
        raise ToolRetry(
            f"Role {to!r} hands in {colleague.output!r}, you have to hand in {mine.output!r}; use delegate instead."
        )
    raise Suspended(child=_child(to, instruction, context), choice="override")


delegate = make_tool(_delegate, name="delegate", effect="pure")
hand_off = make_tool(_hand_off, name="hand_off", effect="pure")
COLLEAGUE_TOOLS = frozenset({delegate.name, hand_off.name})


def _own_role(context: ToolContext) -> str:
    step = context.plan.by_key.get(context.step_key) if context.plan is not None else None
    return (step.role or "") if step is not None else ""


def _child(role: str, instruction: str, context: ToolContext) -> Step:
    """The colleague's step, or a `ToolRetry` that says why not."""
    if context.plan is None:
        raise ToolRetry("There is nobody to ask: this step has no plan around it.")
    steps = context.plan.by_key
    own = steps[context.step_key]
    if role not in context.colleagues:
        known = ", ".join(sorted(context.colleagues.keys() - {own.role}))
        raise ToolRetry(f"There is no role {role!r}; there are: {known}.")
    if not instruction.strip():
        raise ToolRetry("The instruction is empty; the colleague sees nothing else of what you know.")
    line = [own]
    while line[-1].parent is not None and line[-1].parent in steps:
        line.append(steps[line[-1].parent])
    asked = sum(step.parent == own.key for step in context.plan.steps)
    if refused := objection(role, line, asked):
        raise ToolRetry(refused)
    return Step(
        key=f"{own.key}/{role}-{asked + 1}",
        kind="agent",
        role=role,
        pool=context.colleagues[role].pool,
        instruction=instruction,
        parent=own.key,
        after=own.after,
        join="settled",
    )
