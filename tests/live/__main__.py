"""`make live`: a few small calls to the server of your settings, through our own client; costs less than a cent or two.

Exit code 0 only when a language model has answered and every check has passed; 1 when a check failed, 2 when there was
nobody to ask.
"""

import os
import sys
from collections.abc import Callable

from pydantic import BaseModel

from chargehand.orchestrator.prices import is_language_model
from chargehand.orchestrator.settings import Settings
from chargehand.workers.models.client import AnthropicModels, open_models
from chargehand.workers.models.interface import Block, ModelAnswer, ModelBusy, ModelCall, ModelRefused, ModelUnavailable
from chargehand.workers.models.structured import ask

FINISH: Block = {
    "name": "submit_colour",
    "description": "Give the colour.",
    "input_schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}
# Long enough for the cache of every model: about 9,000 tokens.
LONG = "You answer in one word.\n" + "The shop floor has rules, and this is one of them. " * 900


class Colour(BaseModel):
    """A typed answer."""

    name: str
    is_warm: bool


class Smoke:
    """The checks, over one server."""

    def __init__(self, models: AnthropicModels) -> None:
        self.models = models
        self.cost_microusd = 0
        self.answered_by: set[str] = set()

    def attempt(self, call: ModelCall) -> ModelAnswer:
        """One call as a turn makes it."""
        quote = self.models.quote(call)
        answer = self.models.call(call)
        assert answer.cost_microusd <= quote.reserved_microusd, "the call cost more than its upper bound"
        self.cost_microusd += answer.cost_microusd
        self.answered_by.add(answer.model)
        return answer

    def words(self) -> str:
        """A plain answer has text and counters."""
        answer = self.attempt(said("Name a colour."))
        assert answer.content, "no content"
        assert answer.usage.output_tokens, "no tokens counted"
        return f"{answer.usage.input_tokens} tokens in, {answer.usage.output_tokens} out, {answer.duration_ms} ms"

    def stream(self) -> str:
        """A watched answer comes in pieces that add up."""
        pieces: list[str] = []
        answer = self.attempt(said("Count from one to twenty.", on_delta=pieces.append))
        text = "".join(str(block.get("text", "")) for block in answer.content)
        assert "".join(pieces) == text, "the pieces are not the answer"
        return f"{len(pieces)} pieces"

    def tool(self) -> str:
        """The last turn ends with the finish tool."""
        call = said("Name a colour.", tools=[FINISH], tool_choice={"type": "tool", "name": "submit_colour"})
        uses = [block for block in self.attempt(call).content if block.get("type") == "tool_use"]
        assert [use["name"] for use in uses] == ["submit_colour"], f"no submission: {uses}"
        return str(uses[0]["input"])

    def typed(self) -> str:
        """A typed answer is valid."""
        return str(ask(said("Name a colour and say whether it is warm."), Colour, self.attempt))

    def cache(self) -> str:
        """The second call reads what the first has written, where the server has a cache."""
        first, second = (self.attempt(said("Name a colour.", system=LONG)).usage for _ in range(2))
        if not second.cache_read_tokens:
            return "no cache seen (fine for a server without one; on Claude look at the shortest cacheable prefix)"
        return f"{first.cache_write_tokens} written, then {second.cache_read_tokens} read"


def said(text: str, *, system: str = "You answer briefly.", **changes: object) -> ModelCall:
    """A call of the small tier."""
    values: dict[str, object] = {
        "tier": "small",
        "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
        "tools": [],
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
        "max_tokens": 512,
    }
    return ModelCall(**{**values, **changes})  # type: ignore[arg-type]


def main() -> int:
    """Find somebody to ask, and ask; gives the exit code."""
    if not os.environ.get("ANTHROPIC_API_KEY") and not os.environ.get("ANTHROPIC_BASE_URL"):
        print("Not run: set ANTHROPIC_API_KEY, or ANTHROPIC_BASE_URL for a server of your own.", file=sys.stderr)
        return 2
    models = open_models(Settings(), threads=1)
    try:
        return judge(Smoke(models))
    finally:
        models.close()


def judge(smoke: Smoke) -> int:
    """Run all checks; gives the exit code."""
    checks: list[Callable[[], str]] = [smoke.words, smoke.stream, smoke.tool, smoke.typed, smoke.cache]
    failed = 0
    for check in checks:
        try:
            print(f"ok      {check.__name__}: {check()}", flush=True)
        except (AssertionError, ModelBusy, ModelRefused, ModelUnavailable) as error:
            failed += 1
            print(f"FAILED  {check.__name__}: {error}", flush=True)
    print(f"Answered by {', '.join(sorted(smoke.answered_by)) or 'nobody'}; cost ${smoke.cost_microusd / 1e6:.4f}.")
    if not any(map(is_language_model, smoke.answered_by)):
        print("Not a success: no language model has answered.", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
