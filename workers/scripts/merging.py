"""The script `merge_commits`: what parallel steps made of the workspace becomes one commit, in plan order."""

from chargehand.workers.findings import Frozen
from chargehand.workers.scripts.registry import ScriptContext, script


class Merged(Frozen):
    """What came of it."""

    commit: str
    merged: tuple[str, ...]
    """Keys of the steps whose changes are in it."""
    conflicts: tuple[str, ...]
    """Files that hold git's conflict markers."""


@script(name="merge_commits", pool="coding", effect="idempotent")
def merge_commits(context: ScriptContext) -> Merged:
    """Join the commits of the steps before, as they are named; a conflict is left in the files, for a coder."""
    workspace = context.open_workspace()
    (first, *others) = context.commits.values() or (workspace.head_commit,)
    workspace.reset(first)
    conflicts: dict[str, None] = {}
    for commit in others:
        conflicts |= dict.fromkeys(workspace.merge(commit))
    return Merged(commit=workspace.head_commit, merged=tuple(context.commits), conflicts=tuple(conflicts))
