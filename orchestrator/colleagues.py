"""Which colleague an agent may still be given: never one at work further up, never too deep, never too many; pure.

Asked twice: by the tool, so that the agent hears it at once, and under the run's lock, because the plan may have grown
since the step was claimed.
"""

from collections.abc import Sequence

from chargehand.orchestrator.plan import Step

# Deeper, and nobody knows any more who wanted what.
MAX_DEPTH = 3
# So many colleagues may one step ask.
MAX_BREADTH = 5


def objection(role: str, line: Sequence[Step], asked: int) -> str:
    """Why an agent is not given a colleague of this role; empty when nothing speaks against it.

    `line`: the agent's step, then its parent, and so on up. `asked`: how many colleagues the step has had.
    """
    if any(step.role == role for step in line):
        names = " <- ".join(step.role or step.key for step in line)
        return f"Role {role!r} is at work on this already ({names}); it would go round in a circle."
    # Maps and repeats around an agent give no work to anybody.
    if sum(step.kind == "agent" for step in line) > MAX_DEPTH:
        return f"{MAX_DEPTH} colleagues deep nobody delegates any more; do it yourself."
    if asked >= MAX_BREADTH:
        return f"You have asked {MAX_BREADTH} colleagues; go on with what they gave."
    return ""
