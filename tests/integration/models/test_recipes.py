"""The recipes of docs/models.md, as they are printed there, against an imitation of the server that each is for."""

import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from wire import PLAN_TOOL, call, serving

from chargehand.orchestrator.settings import Settings
from chargehand.workers.models.client import open_models
from chargehand.workers.offline.imitation import IMITATIONS

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
RECIPES = re.findall(
    r"^    export (CHARGEHAND_ENDPOINTS=.*\n)    export (CHARGEHAND_SMALL_MODEL=.*)$", PAGE, re.MULTILINE
)


def test_there_are_recipes_for_all_three_and_for_a_file() -> None:
    assert [re.findall(r'"profile": "([^"]*)"', endpoints)[0] for endpoints, _ in RECIPES] == [
        "ollama",
        "ollama",
        "llama.cpp",
        "vllm",
        "llama.cpp",
    ]


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_recipe_makes_the_small_tier_local_and_free(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(word.split("=", 1) for word in shlex.split(" ".join(RECIPES[number])))
    [(printed, profile)] = re.findall(r'"url": "([^"]*)", "profile": "([^"]*)"', variables["CHARGEHAND_ENDPOINTS"])
    with serving(imitation=IMITATIONS[profile]) as server:
        variables["CHARGEHAND_ENDPOINTS"] = variables["CHARGEHAND_ENDPOINTS"].replace(printed, server.base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        models = open_models(Settings(), threads=1)
        try:
            asking = call(
                tier="small", model=None, tools=[PLAN_TOOL], tool_choice={"type": "tool", "name": "submit_plan"}
            )
            quote = models.quote(asking)
            answer = models.call(
                call(
                    model=quote.model,
                    max_tokens=quote.max_tokens,
                    tools=[PLAN_TOOL],
                    tool_choice={"type": "tool", "name": "submit_plan"},
                )
            )
            large = models.quote(call(tier="large", model=None))
        finally:
            models.close()

    assert urlsplit(printed).hostname == "127.0.0.1"
    assert quote.model == variables["CHARGEHAND_SMALL_MODEL"]
    assert (quote.reserved_microusd, answer.cost_microusd) == (0, 0)
    assert server.ledger.calls()[0]["model"] == quote.model.removeprefix("local/")
    assert any(block["type"] == "tool_use" for block in answer.content)
    assert large.model == "claude-opus-5-5"
