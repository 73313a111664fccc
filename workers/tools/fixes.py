"""The tools `list_fixes` and `apply_fix`: automatic repairs, one rule in one file, each a commit of its own."""

from typing import Annotated

from pydantic import Field, JsonValue, ValidationError

from chargehand.workers.findings import FixAttempt
from chargehand.workers.scripts.fixes import FixRefused, candidates
from chargehand.workers.scripts.fixes import apply_fix as make_fix
from chargehand.workers.tools.registry import ToolContext, ToolOutput, ToolRetry, tool

# More than anyone applies within twenty turns; the rest is counted.
MAX_LISTED = 120


@tool(effect="pure", timeout_seconds=180, output_cap_bytes=96_000)
def list_fixes(context: ToolContext) -> dict[str, JsonValue]:
    """List the safe automatic fixes that this repository offers: rule, file, how often, what is wrong, and where.

    Safe means that the rule promises to keep the meaning; tests will still judge each one after you have finished.
    """
    try:
        found = candidates(context.open_workspace().path)
    except FixRefused as refusal:
        raise ToolRetry(f"{refusal} Finish without fixes, and say so as a human task.") from refusal
    listed: dict[str, JsonValue] = {"fixes": [candidate.model_dump(mode="json") for candidate in found[:MAX_LISTED]]}
    return {**listed, "left_out": len(found) - MAX_LISTED} if len(found) > MAX_LISTED else listed


@tool(effect="idempotent", timeout_seconds=180)
def apply_fix(
    rule: Annotated[str, Field(pattern=r"^[A-Z]{1,8}[0-9]{1,5}$", description="As list_fixes names it: F632.")],
    path: Annotated[str, Field(min_length=1, description="As list_fixes names it.")],
    context: ToolContext,
) -> ToolOutput:
    """Apply every safe fix of one rule in one file, as one commit. Applying it again changes nothing more."""
    for fact in reversed(context.finished):
        if fact.tool == "apply_fix" and fact.outcome == "ok":
            recorded = _attempt(fact.content)
            if recorded is not None and (recorded.rule, recorded.path) == (rule, path):
                # The head may have moved on since: the fix keeps its own commit, the workspace its newest.
                return ToolOutput(content=fact.content, commit=context.open_workspace().head_commit)
    workspace = context.open_workspace()
    try:
        attempt = make_fix(workspace, rule, path)
    except FixRefused as refusal:
        raise ToolRetry(str(refusal)) from refusal
    except Exception:
        # Half a fix must not slip into the next one's commit.
        workspace.reset(workspace.head_commit)
        raise
    return ToolOutput(content=attempt.model_dump_json(), commit=attempt.commit)


def _attempt(content: str) -> FixAttempt | None:
    try:
        return FixAttempt.model_validate_json(content)
    except ValidationError:
        return None
