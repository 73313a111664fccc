"""A trace while it is made: calls of one run in their order, and where a person would say "this is a loop"."""

import random
from typing import Any

# Left out of the lines, because most calls are theirs.
STEP = "a"
ROLE = "coder"
ERROR_TYPE = "ToolRetry"


class Scene:
    """Calls that agents make; `first` and `at` are indexes of calls."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.calls: list[dict[str, Any]] = []
        self.first: int | None = None
        """The loop's first call: a trip before it is false."""
        self.at: int | None = None
        """The call at which a person would say "this is a loop"; calls after it are wasted."""

    def act(
        self,
        tool: str,
        arguments: dict[str, Any],
        ok: str | None = None,
        *,
        error: str | None = None,
        error_type: str = ERROR_TYPE,
        step: str | None = None,
        role: str | None = None,
        commit: str | None = None,
        same_turn: bool = False,
    ) -> None:
        """One call and what came of it; `same_turn`: asked for together with the call before."""
        call: dict[str, Any] = {"tool": tool, "args": arguments}
        if step not in (None, STEP):
            call["step"] = step
        if role not in (None, ROLE):
            call["role"] = role
        if same_turn:
            call["together"] = True
        call |= {"ok": ok} if error is None else {"error": error}
        if error is not None and error_type != ERROR_TYPE:
            call["type"] = error_type
        if commit is not None:
            call["commit"] = commit
        self.calls.append(call)

    def loop_begins(self) -> None:
        """The next call is the loop's first."""
        self.first = len(self.calls)

    def loop_shows(self) -> None:
        """The last call is the one at which a person sees it."""
        self.at = len(self.calls) - 1
