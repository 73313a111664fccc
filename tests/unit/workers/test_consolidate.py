"""What is proposed for memory, what has to be judged before, and how the offline rules judge."""

import json
from uuid import UUID

import pytest
from pydantic import JsonValue

from chargehand.memory.beliefs import least
from chargehand.orchestrator.consolidating import budget_of
from chargehand.orchestrator.errors import InvalidBudget
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.testimony import Statement, in_words, lasting_sentences
from chargehand.workers.lessons import ExtractedFact, ExtractedFacts, Pair, Pairs
from chargehand.workers.offline.policies import answer as offline
from chargehand.workers.offline.policies import arbiter
from chargehand.workers.scripts.consolidate import propose, read_verdicts
from chargehand.workers.tools.finish import FINISH_TOOLS
from chargehand.workers.tools.registry import ToolContext, ToolResult, run_tool

STEP, MEMORY = UUID(int=7), UUID(int=9)
TOLD = Statement(id="s1", text="Always use UTC.", trust="person", tool="tell", lasting="Always use UTC.")
READ = Statement(
    id="s2", text="x", trust="content", tool="researcher", step_id=STEP, memories=(MEMORY,), rests_on=("a.md",)
)
OWN = Statement(id="s3", text="y", trust="conclusion", tool="researcher", step_id=STEP)


def facts(*given: tuple[str, tuple[str, ...]]) -> ExtractedFacts:
    return ExtractedFacts(facts=tuple(ExtractedFact(text=text, evidence=ids, importance=0.5) for text, ids in given))


def test_a_fact_is_trusted_as_the_least_of_its_evidence_and_derived_from_all_of_it() -> None:
    [kept, fact] = propose([TOLD, READ, OWN], facts(("Clocks lie.", ("s3", "s2"))))
    assert (kept.text, kept.kind, kept.trust) == ("Always use UTC.", "episode", "person")
    assert (fact.trust, fact.derived_from, fact.rests_on, fact.step_id) == ("content", (MEMORY,), ("a.md",), STEP)


def test_the_same_words_are_proposed_once_and_a_fact_without_evidence_not_at_all() -> None:
    proposed = propose([TOLD, OWN], facts(("always use  utc", ("s3",)), ("From nowhere.", ("s9",))))
    assert [one.text for one in proposed] == ["Always use UTC."]


def test_nothing_is_believed_while_a_pair_is_not_judged() -> None:
    pair = f"b1:{MEMORY}"
    pairs = Pairs(pairs=(Pair(id=pair, newer="a", older="b"),))
    judged: JsonValue = {"judgements": [{"pair": pair, "verdict": "same", "reason": "r"}]}
    assert read_verdicts(pairs, judged) == {"b1": {MEMORY: "same"}}
    assert read_verdicts(Pairs(pairs=()), None) == {}
    with pytest.raises(ValueError, match="not judged"):
        read_verdicts(pairs, None)
    with pytest.raises(ValueError, match="not judged"):
        read_verdicts(pairs, {"judgements": []})


def test_people_say_what_is_to_hold_and_the_rest_is_left_out() -> None:
    said = "Thanks! From now on, use UTC. It rains. Never push on Fridays."
    assert lasting_sentences(said) == "From now on, use UTC. Never push on Fridays."
    assert lasting_sentences("Audit this repository") == ""


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, ""),
        ("plain", "plain"),
        ({"found": True, "answer": "It is."}, "It is."),
        ({"found": False, "answer": "Not there."}, ""),
        ({"headline": "H", "verdict_lines": ["a", "b"]}, "H a b"),
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
    ],
)
def test_a_result_says_its_answer(result: JsonValue, words: str) -> None:
    assert in_words(result) == words


@pytest.mark.parametrize(
    ("newer", "older", "verdict"),
    [
        ("The limit is 10.", "the limit is 10", "same"),
        ("The limit is 20.", "The limit is 10.", "contradicts"),
        ("The limit is not 10.", "The limit is 10.", "contradicts"),
        ("Deploys don't run on Fridays", "Deploys do run on Fridays", "contradicts"),
        ("Parcels are heavy.", "The limit is 10.", "different"),
    ],
)
def test_the_offline_arbiter_judges_by_words(newer: str, older: str, verdict: str) -> None:
    assert arbiter.compare(newer, older)[0] == verdict


def test_the_offline_rules_answer_both_roles_with_what_their_finish_tools_take() -> None:
    gather: JsonValue = {"statements": [{"id": "s1", "text": "The limit is 10. So be it.", "trust": "conclusion"}]}
    pair: JsonValue = {"pairs": [{"id": f"b1:{MEMORY}", "newer": "The limit is 10.", "older": "The limit is 20."}]}
    for name, inputs in [("submit_facts", {"gather": gather}), ("submit_judgements", {"pair": pair})]:
        blocks = offline(request(name, inputs))
        assert blocks[-1]["name"] == name
        assert finished(name, blocks[-1]["input"], inputs).outcome == "ok"


def request(tool: str, inputs: dict[str, JsonValue]) -> dict[str, object]:
    text = f"<task>\nt\n</task>\n<arguments>\n{{}}\n</arguments>\n<inputs>\n{json.dumps(inputs)}\n</inputs>"
    shared = "<run>\n<goal>\ng\n</goal>\n</run>"
    content = [{"type": "text", "text": shared}, {"type": "text", "text": text}]
    return {"tools": [FINISH_TOOLS[tool].definition], "messages": [{"role": "user", "content": content}]}


def finished(tool: str, arguments: JsonValue, inputs: dict[str, JsonValue]) -> ToolResult:
    def nothing(*_: object) -> str:
        return ""

    context = ToolContext(
        run_id=STEP,
        step_id=STEP,
        step_key="k",
        arguments={},
        inputs=inputs,
        results=lambda _key: None,
        open_workspace=nothing,  # type: ignore[arg-type]
        recall=nothing,
    )
    return run_tool(FINISH_TOOLS[tool], arguments, context=context, idempotency_key="k")


def test_evidence_that_is_none_and_pairs_that_were_left_out_are_sent_back() -> None:
    invented = {"facts": [{"text": "A.", "evidence": ["s8"], "importance": 0.5}]}
    refused = finished("submit_facts", invented, {"gather": {"statements": [{"id": "s1"}]}})
    assert "no statement s8" in refused.output.content
    judged = finished("submit_judgements", {"judgements": []}, {"pair": {"pairs": [{"id": "b1:x"}]}})
    assert "b1:x is not judged" in judged.output.content


def test_what_is_kept_of_runs_is_opted_into_with_a_budget() -> None:
    assert budget_of(None, Settings(consolidate_budget_usd="")) is None
    assert budget_of(None, Settings(consolidate_budget_usd="0.02")) == 20_000
    assert budget_of("0", Settings(consolidate_budget_usd="0.02")) is None
    assert budget_of("0.1", Settings(consolidate_budget_usd="")) == 100_000
    with pytest.raises(InvalidBudget):
        budget_of("much", Settings())


def test_the_least_trusted_decides() -> None:
    assert least("person", "content", "conclusion") == "content"
    assert least("person", "conclusion") == "conclusion"
