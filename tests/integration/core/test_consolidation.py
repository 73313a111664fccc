"""What a run has taught is kept by a run that follows it: real scripts, real loop, the offline rules for a model."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest

from chargehand.memory.beliefs import LIBRARY, MemoryItem, remember
from chargehand.memory.embedder import Vector
from chargehand.memory.forgetting import forget
from chargehand.memory.semantic import Recalled, recall
from chargehand.orchestrator import consolidating, runs, views
from chargehand.orchestrator.facts import StepFinished, ToolFinished
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.testimony import statements_of
from chargehand.orchestrator.turns import StepRecorder
from chargehand.workers.executor import execute
from chargehand.workers.offline.policies import answer
from chargehand.workers.scripts import consolidate
from chargehand.workers.shop import Shop
from chargehand.workers.tools.recall import recall_passages
from tests.integration.core.agents import FunctionModel, agent

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

LIMIT_IS_10 = "The rate limit of the billing service is 10 requests a second."
LIMIT_IS_20 = "The rate limit of the billing service is 20 requests a second."
LIMIT_IS_NOT_10 = "The rate limit of the billing service is not 10 requests a second."
SCRIPTS = (
    consolidate.gather_testimony,
    consolidate.propose_facts,
    consolidate.pair_facts,
    consolidate.has_pairs,
    consolidate.believe_facts,
)


class WordsEmbedder:
    """Texts with the same words are near each other; a negation hardly moves them, as in a real model."""

    model_id = "minilm-l6-v2-int8"
    dimensions = 384

    def embed(self, texts: list[str]) -> list[Vector]:
        return [self._one(one) for one in texts]

    def _one(self, sentence: str) -> Vector:
        words = sentence.lower().split() or [""]
        whole = sum(np.random.default_rng(sum(map(ord, word)) * len(word)).normal(size=384) for word in words)
        return np.asarray(whole / np.linalg.norm(whole), dtype=np.float32)


EMBEDDER = WordsEmbedder()


@pytest.fixture
def shop(house: "House") -> Shop:
    """A worker process of the research pool."""

    def reply(call: Any, _turn: int) -> list[Any]:
        return answer({"tools": call.tools, "messages": call.messages})

    return replace(house.shop(*SCRIPTS), models=FunctionModel(reply), embedder=lambda: EMBEDDER)


def taught(house: "House", result: str, **fields: Any) -> UUID:
    """A run whose agent concluded this, from nothing but its instruction; it has ended."""
    fields = {"consolidate_microusd": 50_000, **fields}
    run_id = house.start(agent("find"), role_texts={"asker": ROLE}, **fields)
    house.run(run_id, "find", result={"question": "?", "found": True, "answer": result, "quotes": []})
    house.advance(run_id)
    assert house.run_row(run_id).status == "succeeded"
    return run_id


ROLE = """\
---
name: asker
description: Does what its step says.
pool: research
tier: small
tools: []
output: submit_answer
---
Do it.
"""


def consolidated(house: "House", shop: Shop, run_id: UUID) -> dict[str, Any]:
    """What the run that followed came to."""
    watch(house)
    follower = follower_of(house, run_id)
    assert follower is not None
    drive(house, shop, follower)
    with house.as_tenant() as session:
        views.view_run(session, follower)
        found = views.results(session, follower, ["believe"])["believe"]
    assert found.outcome == "succeeded", found.error
    assert isinstance(found.result, dict)
    assert house.drift(follower) == []
    return found.result


def watch(house: "House") -> None:
    """A round of a supervisor that has the roles of the installation."""
    house.watch(house.settings.model_copy(update={"roles_dir": None}))


def follower_of(house: "House", run_id: UUID) -> UUID | None:
    rows = house.execute("SELECT id FROM runs WHERE idempotency_key = :key", {"key": consolidating.key_of(run_id)})
    return rows[0].id if rows else None


def drive(house: "House", shop: Shop, run_id: UUID) -> None:
    for _ in range(20):
        house.advance(run_id)
        house.admit()
        queued = house.execute(
            "SELECT id FROM steps WHERE run = :run AND status = 'queued' ORDER BY ordinal", {"run": run_id}
        )
        for row in queued:
            execute(shop, tenant=house.tenant, step_id=row.id)
        if house.run_row(run_id).status in {"succeeded", "failed"}:
            assert house.run_row(run_id).status == "succeeded", house.run_row(run_id).reason
            return
    raise AssertionError(f"the run does not end: {house.statuses(run_id)}")


def believed(house: "House", query: str = "rate limit billing") -> list[Recalled]:
    with house.as_tenant() as session:
        return list(recall(session, tenant=house.tenant, scope=LIBRARY, query=query, embedder=EMBEDDER))


def known(house: "House", sentence: str, **fields: Any) -> UUID:
    item = MemoryItem(source="person", line_start=1, line_end=1, text=sentence, kind="note", **fields)
    with house.as_tenant() as session:
        return remember(session, tenant=house.tenant, scope=LIBRARY, items=[item], embedder=EMBEDDER)[0]


class AnotherModel(WordsEmbedder):
    """What embedded before another model was chosen."""

    model_id = "former"


def test_a_contradiction_is_found_by_its_words_while_memories_have_vectors_of_two_models(
    house: "House", shop: Shop
) -> None:
    item = MemoryItem(source="x", line_start=1, line_end=1, text=LIMIT_IS_20, kind="fact", trust="conclusion")
    with house.as_tenant() as session:
        (old,) = remember(session, tenant=house.tenant, scope=LIBRARY, items=[item], embedder=AnotherModel())
    known(house, "Parcels go to the back door.")
    run_id = taught(house, LIMIT_IS_10)

    outcome = consolidated(house, shop, run_id)

    assert list(outcome["superseded"]) == [str(old)]
    assert list(outcome["kept"].values()) == [LIMIT_IS_10]


def test_a_fact_is_kept_with_the_run_the_step_the_role_and_how_far_it_is_trusted(house: "House", shop: Shop) -> None:
    run_id = taught(house, f"{LIMIT_IS_10} I looked it up.")

    outcome = consolidated(house, shop, run_id)

    [fact] = believed(house)
    assert outcome["kept"] == {str(fact.memory_id): LIMIT_IS_10}
    assert (fact.text, fact.kind, fact.trust) == (LIMIT_IS_10, "fact", "conclusion")
    assert (fact.run_id, fact.step_id, fact.tool) == (run_id, step_id(run_id, "find"), "asker")
    house.execute(
        "UPDATE role_versions SET commit = 'c0ffee' WHERE tenant = :t AND hash = :h",
        {"t": house.tenant, "h": fact.role_version},
    )
    assert believed(house)[0].role_commit == "c0ffee"
    assert fact.role_version == house.run_row(run_id).role_versions["asker"]
    with house.as_tenant() as session:
        shown = recall_passages(session, tenant=house.tenant, scope="run:x", query="the rate limit", embedder=EMBEDDER)
    assert f"[memory {fact.memory_id}; fact; trust: conclusion; since " in shown.text
    assert (
        f"run {run_id} by asker at role version {str(fact.role_version)[:12]} (commit c0ffee)]\n{LIMIT_IS_10}"
        in shown.text
    )
    assert shown.memory_ids == (fact.memory_id,)


def test_nothing_is_kept_unless_it_was_asked_for(house: "House") -> None:
    run_id = taught(house, LIMIT_IS_10, consolidate_microusd=None)
    watch(house)
    assert follower_of(house, run_id) is None


def test_what_is_known_already_is_not_kept_twice(house: "House", shop: Shop) -> None:
    first = consolidated(house, shop, taught(house, LIMIT_IS_10))
    second = consolidated(house, shop, taught(house, LIMIT_IS_10))

    assert second["kept"] == {}
    assert second["known"] == {next(iter(first["kept"])): LIMIT_IS_10}
    assert len(believed(house)) == 1


@pytest.mark.parametrize("newer", [LIMIT_IS_20, LIMIT_IS_NOT_10])
def test_what_contradicts_a_memory_supersedes_it_however_alike_they_look(
    house: "House", shop: Shop, newer: str
) -> None:
    vectors = EMBEDDER.embed([LIMIT_IS_10, newer])
    assert float(vectors[0] @ vectors[1]) > 0.85
    consolidated(house, shop, taught(house, LIMIT_IS_10))

    outcome = consolidated(house, shop, taught(house, newer))

    assert len(outcome["superseded"]) == 1
    assert [memory.text for memory in believed(house)] == [newer]


def test_no_model_is_asked_when_nothing_is_near(house: "House", shop: Shop) -> None:
    known(house, "Parcels are weighed in the morning.")
    run_id = taught(house, LIMIT_IS_10)
    consolidated(house, shop, run_id)
    follower = follower_of(house, run_id)
    assert follower is not None
    assert house.statuses(follower)["judge"] == "skipped"


def test_what_is_trusted_less_does_not_supersede_what_a_person_said(house: "House", shop: Shop) -> None:
    said = known(house, LIMIT_IS_10, trust="person")

    outcome = consolidated(house, shop, taught(house, LIMIT_IS_20))

    assert outcome["kept"] == {}
    assert str(said) in outcome["refused"][0]["why"]
    assert [memory.memory_id for memory in believed(house)] == [said]


def test_a_person_who_confirms_what_was_read_makes_it_trusted(house: "House", shop: Shop) -> None:
    read = known(house, f"Always remember: {LIMIT_IS_10}", trust="content")
    run_id = taught(house, "", goal=f"Always remember: {LIMIT_IS_10}")

    outcome = consolidated(house, shop, run_id)

    assert list(outcome["superseded"]) == [str(read)]
    assert [memory.trust for memory in believed(house)] == ["person"]


def test_what_a_person_wants_to_hold_is_kept_word_for_word_by_a_rule(house: "House", shop: Shop) -> None:
    run_id = house.start(agent("find"), role_texts={"asker": ROLE}, consolidate_microusd=50_000)
    with house.as_tenant() as session:
        runs.tell(session, house.tenant, run_id, "Thanks. From now on, write dates as 2026-11-26. See you!")
    house.run(run_id, "find", result={"question": "?", "found": False, "answer": "nothing", "quotes": []})
    house.advance(run_id)

    consolidated(house, shop, run_id)

    [episode] = believed(house, "dates")
    assert (episode.text, episode.kind) == ("From now on, write dates as 2026-11-26.", "episode")
    assert (episode.trust, episode.tool, episode.run_id) == ("person", "tell", run_id)


def test_a_conclusion_from_a_file_is_trusted_as_the_file_and_forgotten_with_it(house: "House", shop: Shop) -> None:
    run_id = house.start(agent("find"), role_texts={"asker": ROLE}, consolidate_microusd=50_000)
    held = house.claim(run_id, "find")
    read = ToolFinished(
        tool_use_id="t", tool="read_file", arguments={"path": "docs/evil.md"}, outcome="ok", content="lies"
    )
    StepRecorder(house.connections, held, lease_seconds=60).tool_finished(read)
    held.finish(StepFinished.model_validate({"outcome": "succeeded", "result": {"found": True, "answer": LIMIT_IS_10}}))
    house.advance(run_id)

    consolidated(house, shop, run_id)

    assert [memory.trust for memory in believed(house)] == ["content"]
    with house.as_tenant() as session:
        assert len(forget(session, tenant=house.tenant, source="docs/evil.md").memories) == 1
    assert believed(house) == []


def test_a_poisoned_lesson_is_rolled_back_through_the_runs_that_recalled_it(house: "House", shop: Shop) -> None:
    consolidated(house, shop, taught(house, LIMIT_IS_10))
    [true] = believed(house)
    consolidated(house, shop, taught(house, LIMIT_IS_20))
    [lie] = believed(house)
    # A later run recalls the lie, and concludes something from it.
    run_id = house.start(agent("find"), role_texts={"asker": ROLE}, consolidate_microusd=50_000)
    held = house.claim(run_id, "find")
    recalled = ToolFinished(
        tool_use_id="t",
        tool="recall",
        arguments={"query": "limit"},
        outcome="ok",
        content=lie.text,
        reads=(f"memory:{lie.memory_id}@1",),
    )
    StepRecorder(house.connections, held, lease_seconds=60).tool_finished(recalled)
    concluded = {"found": True, "answer": "Batches may hold twenty requests each."}
    held.finish(StepFinished.model_validate({"outcome": "succeeded", "result": concluded}))
    house.advance(run_id)
    consolidated(house, shop, run_id)
    assert len(believed(house, "limit batches")) == 2

    with house.as_tenant() as session:
        undone = forget(session, tenant=house.tenant, memories=[lie.memory_id])

    assert len(undone.memories) == 2
    assert undone.believed_again == (true.memory_id,)
    assert [memory.text for memory in believed(house, "limit batches")] == [LIMIT_IS_10]


def test_a_run_that_recalled_what_was_forgotten_meanwhile_teaches_nothing(house: "House", shop: Shop) -> None:
    lie = known(house, "A lie.")
    run_id = house.start(agent("find"), role_texts={"asker": ROLE}, consolidate_microusd=50_000)
    held = house.claim(run_id, "find")
    recalled = ToolFinished(
        tool_use_id="t", tool="recall", arguments={}, outcome="ok", content="A lie.", reads=(f"memory:{lie}@1",)
    )
    StepRecorder(house.connections, held, lease_seconds=60).tool_finished(recalled)
    held.finish(StepFinished.model_validate({"outcome": "succeeded", "result": {"answer": LIMIT_IS_10}}))
    house.advance(run_id)
    with house.as_tenant() as session:
        forget(session, tenant=house.tenant, memories=[lie])

    outcome = consolidated(house, shop, run_id)

    assert outcome["kept"] == {}
    assert "was forgotten" in outcome["refused"][0]["why"]


def test_a_belief_is_written_once_however_often_its_step_runs(house: "House", shop: Shop) -> None:
    run_id = taught(house, LIMIT_IS_10)
    watch(house)
    follower = follower_of(house, run_id)
    assert follower is not None
    dying = replace(shop, scripts={**shop.scripts, "believe_facts": _dies_after(consolidate.believe_facts)})
    with pytest.raises(KeyboardInterrupt):
        drive(house, dying, follower)
    house.expire(follower, "believe")
    assert house.recover() == 1
    drive(house, shop, follower)

    assert [memory.text for memory in believed(house)] == [LIMIT_IS_10]
    assert house.execute("SELECT count(*) FROM memories WHERE tenant = :t", {"t": house.tenant})[0].count == 1


def _dies_after(script: Any) -> Any:
    def run_and_die(context: Any, *, run: str) -> Any:
        script.function(context, run=run)
        raise KeyboardInterrupt

    return replace(script, function=run_and_die)


def test_an_erased_run_has_nothing_to_say(house: "House") -> None:
    run_id = taught(house, LIMIT_IS_10)
    with house.as_tenant() as session:
        assert [one.id for one in statements_of(session, run_id)] == ["s1", "s2"]
    house.execute("UPDATE journal SET body = NULL, salt = NULL WHERE run = :run", {"run": run_id})
    with house.as_tenant() as session:
        assert statements_of(session, run_id) == ()
