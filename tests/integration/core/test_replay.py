"""A replay makes the run again from its journal, asks nobody, and names the first row that comes out otherwise."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue
from sqlalchemy.orm import Session

from chargehand.memory import journal
from chargehand.memory.procedural import load_roles
from chargehand.orchestrator import runs
from chargehand.orchestrator.errors import NotFound
from chargehand.orchestrator.facts import ModelRequested, Usage
from chargehand.orchestrator.plan import Branch, Repeat, Step, step_id
from chargehand.orchestrator.replay import Divergence, Replay
from chargehand.workers.models.interface import ModelAnswer, ModelCall
from chargehand.workers.replay import replay
from chargehand.workers.tools.registry import make_tool
from tests.integration.core.test_forks import COST, EACH, Desk, Model, agent, script
from tests.integration.core.test_forks import role as desk_role

if TYPE_CHECKING:
    from tests.integration.core.conftest import House


def replayed(desk: Desk, run_id: UUID, **tools: Any) -> Replay:
    with desk.house.as_tenant() as session:
        return replay(session, desk.house.tenant, run_id, {"look": desk.looks.tool(), **tools})


def rewrite(house: "House", run_id: UUID, key: str | None, kind: str, change: Any, *, rehash: bool = True) -> None:
    """Let the owner of the database change one body; with its hash, so that only what it says is wrong."""
    stream = UUID(int=0) if key is None else step_id(run_id, key)
    rows = house.execute(
        "SELECT seq, body, salt FROM journal WHERE run = :run AND step = :step AND kind = :kind ORDER BY seq",
        {"run": run_id, "step": stream, "kind": kind},
    )
    seq, body, _ = rows[0]
    changed = json.loads(body)
    change(changed)
    text = json.dumps(changed, separators=(",", ":"), ensure_ascii=False)
    house.execute("ALTER TABLE chargehand.journal DISABLE TRIGGER USER")
    hashed = "body_hash = sha256(salt || convert_to(:body, 'UTF8'))," if rehash else ""
    house.execute(
        f"UPDATE chargehand.journal SET {hashed} body = :body WHERE run = :run AND step = :step AND seq = :seq",
        {"body": text, "run": run_id, "step": stream, "seq": seq},
    )
    house.execute("ALTER TABLE chargehand.journal ENABLE TRIGGER USER")


def relink(house: "House", run_id: UUID) -> None:
    """Link the streams anew, as a forger would: only what the rows say is wrong then."""
    house.execute("ALTER TABLE chargehand.journal DISABLE TRIGGER USER")
    with Session(house.owner) as session:
        previous, stream = b"", None
        entries = journal.read(session, run_id)
    for entry in entries:
        if entry.step != stream:
            previous, stream = b"", entry.step
        previous = journal.link(previous, entry)
        house.execute(
            "UPDATE chargehand.journal SET hash = :hash WHERE run = :run AND step = :step AND seq = :seq",
            {"hash": previous, "run": run_id, "step": entry.step, "seq": entry.seq},
        )
    house.execute("ALTER TABLE chargehand.journal ENABLE TRIGGER USER")


BODY = (script("code"), script("test", "code"))
PLAN = (
    script("list"),
    EACH,
    Step(key="loop", kind="repeat", repeat=Repeat(body=BODY, until="test", max_rounds=4)),
    Step(key="which", kind="branch", after=("loop",), branch=Branch(labels=("x", "y"), script="choose")),
    script("x", "which", when={"which": "x"}),
    script("y", "which", when={"which": "y"}),
    agent("ask", "each", "x", "y"),
    agent("again", "ask", arguments={"a": [1, {"b": "c"}]}),
    script("end", "again"),
)
RESULTS: dict[str, JsonValue] = {"list": [1, 2], "loop/1/test": False, "loop/2/test": True, "which/choose": "y"}


@pytest.fixture
def desk(house: "House") -> Desk:
    return Desk(house, looks=4)


def finished(desk: Desk) -> UUID:
    run_id = desk.submit(*PLAN)
    desk.finish(run_id, RESULTS)
    desk.check(run_id)
    return run_id


def test_a_run_comes_out_the_same_and_nobody_is_asked(desk: Desk) -> None:
    run_id = finished(desk)
    before = desk.journal(run_id)
    calls, looks = len(desk.model.calls), len(desk.looks.seen)
    found = replayed(desk, run_id)
    assert found.divergences == ()
    assert found.rows == len(before)
    # 2 x 5 turns; 2 x 4 looks; children of 3 steps (2 rounds), their ends, skipped x, the outcome.
    assert (found.requests, found.tool_calls, found.decisions) == (10, 8, 9)
    assert (len(desk.model.calls), len(desk.looks.seen)) == (calls, looks)
    assert desk.journal(run_id) == before
    assert replayed(desk, run_id).digest == found.digest


def test_an_old_run_replays_with_its_own_roles_whatever_their_files_say_by_now(
    house: "House", desk: Desk, tmp_path: Path
) -> None:
    file = tmp_path / "asker.md"
    file.write_text(desk_role().text)

    def submit() -> UUID:
        with house.as_tenant() as session:
            installed = load_roles(tmp_path).values()
            return runs.accept(session, house.tenant, house.request(*PLAN), installed)

    old = submit()
    desk.finish(old, RESULTS)
    before = replayed(desk, old)
    file.write_text(desk_role().text + "\nAnd be brief.\n")
    new = submit()
    desk.finish(new, RESULTS)

    after = replayed(desk, old)

    assert (after.divergences, after.digest) == ((), before.digest)
    assert replayed(desk, new).divergences == ()
    pinned = [house.run_row(run_id).role_versions[desk_role().name] for run_id in (old, new)]
    assert pinned[0] == desk_role().blob_hash != pinned[1]


def test_a_fork_at_a_turn_and_a_conversation_come_out_the_same(desk: Desk) -> None:
    run_id = finished(desk)
    fork = desk.fork(run_id, "ask", turn=3)
    desk.finish(fork, RESULTS)
    assert replayed(desk, fork).divergences == ()
    item = desk.fork(run_id, "each/1/one")
    desk.finish(item, RESULTS)
    assert replayed(desk, item).divergences == ()
    for goal in ("One", "Two"):
        talked = desk.submit(agent("ask"), goal=goal, conversation_id="talk")
        desk.finish(talked)
        assert replayed(desk, talked).divergences == ()


class Talkative(Model):
    """Writes much in each turn, and summarises when it is asked to."""

    def call(self, call: ModelCall) -> ModelAnswer:
        shown = json.dumps([*call.messages])
        usage = Usage(input_tokens=len(shown) // 4)
        if call.tools[0]["name"] == "submit_summary":
            self.calls.append(call)
            summary: dict[str, JsonValue] = {"summary": "Looked about."}
            use: dict[str, JsonValue] = {"type": "tool_use", "id": "s", "name": "submit_summary", "input": summary}
            content: tuple[dict[str, JsonValue], ...] = (use,)
        else:
            gone = re.search(r"Your first (\d+) turns", shown)
            said = sum(message["role"] == "assistant" for message in call.messages) + (int(gone[1]) if gone else 0)
            self.calls.append(call)
            name, given = ("look", {"at": said}) if said < self.looks else ("submit_answer", self._answer(call))
            use = {"type": "tool_use", "id": f"u{said}", "name": name, "input": given}
            content = ({"type": "text", "text": f"{said}" * 1_500}, use)
        return ModelAnswer(
            model=str(call.model), content=content, stop_reason="tool_use", usage=usage, cost_microusd=COST,
            duration_ms=1,
        )  # fmt: skip


def test_a_run_whose_window_was_full_comes_out_the_same_with_its_summaries(house: "House") -> None:
    house.settings = house.settings.model_copy(update={"window_tokens": 4_000})
    desk = Desk(house, looks=12)
    desk.model = Talkative(looks=12)
    run_id = desk.submit(agent("ask"))
    desk.finish(run_id)
    desk.check(run_id)
    asked = [fact for fact in desk.facts(run_id, "ask") if isinstance(fact, ModelRequested)]
    assert any(fact.summarises for fact in asked)
    assert desk.cost(run_id) == COST * len(asked)
    found = replayed(desk, run_id)
    assert found.divergences == ()
    assert found.requests == len(asked)
    turn = next(place for place, fact in enumerate(asked) if fact.summarises) + 2
    fork = desk.fork(run_id, "ask", turn=asked[turn].turn)
    desk.finish(fork)
    assert replayed(desk, fork).divergences == ()


def test_a_run_that_was_done_again_told_and_cancelled_comes_out_the_same(house: "House", desk: Desk) -> None:
    run_id = desk.submit(script("a"), agent("b", "a"), script("c", "b"), script("long"))
    house.advance(run_id)
    house.admit()
    house.run(run_id, "a", 1)
    held = house.claim(run_id, "long")
    with house.as_tenant() as session:
        runs.tell(session, house.tenant, run_id, "hurry")
    desk.finish(run_id)
    with house.as_tenant() as session:
        runs.retry(session, house.tenant, run_id, "a")
    desk.finish(run_id)
    assert replayed(desk, run_id).divergences == ()
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, run_id)
    desk.finish(run_id)
    del held
    assert house.run_row(run_id).status == "cancelled"
    assert replayed(desk, run_id).divergences == ()


def first_after(
    desk: Desk, run_id: UUID, key: str | None, kind: str, change: Any, *, relinked: bool = True
) -> Divergence:
    rewrite(desk.house, run_id, key, kind, change)
    if relinked:
        relink(desk.house, run_id)
    found = replayed(desk, run_id).first
    assert found is not None
    return found


def test_an_edited_body_is_named_with_its_row(desk: Desk) -> None:
    run_id = finished(desk)
    rewrite(desk.house, run_id, "ask", "model.responded", lambda body: body.update(stop_reason="x"), rehash=False)
    found = replayed(desk, run_id).first
    assert found is not None
    assert (found.step, found.seq, found.kind, found.field) == ("ask", 3, "model.responded", "body")


def test_a_forged_answer_shows_in_the_next_request(desk: Desk) -> None:
    run_id = finished(desk)
    found = first_after(desk, run_id, "ask", "tool.finished", lambda body: body.update(content="seen elsewhere"))
    assert (found.step, found.kind, found.field) == ("ask", "model.requested", "prompt_hash")


def test_a_forged_call_and_a_forged_result_are_named(desk: Desk) -> None:
    run_id = finished(desk)
    found = first_after(desk, run_id, "ask", "tool.finished", lambda body: body.update(arguments={"at": 9}))
    assert (found.field, found.expected, found.found) == ("arguments", {"at": 9}, {"at": 0})
    other = finished(desk)
    found = first_after(desk, other, "again", "step.finished", lambda body: body["result"].update(answer="forged"))
    assert (found.step, found.kind, found.field) == ("again", "step.finished", "result")


def test_a_forged_decision_of_the_graph_is_named(desk: Desk) -> None:
    run_id = finished(desk)
    found = first_after(desk, run_id, "each", "step.finished", lambda body: body.update(result=[1, 2]))
    assert (found.step, found.field, found.found) == ("each", "result", ["each/0/one", "each/1/one"])
    other = finished(desk)
    found = first_after(desk, other, "which", "step.finished", lambda body: body.update(label="x"))
    assert (found.step, found.field, found.expected) == ("which", "label", "x")
    third = finished(desk)
    found = first_after(desk, third, None, "run.finished", lambda body: body.update(outcome="failed"))
    assert (found.step, found.field, found.found) == (None, "outcome", "succeeded")


def test_a_forged_winner_of_a_race_is_named(desk: Desk) -> None:
    run_id = desk.submit(script("near"), script("far"), script("end", "near", "far", join="any"))
    for _ in range(2):
        desk.house.advance(run_id)
        desk.house.admit()
    desk.work(run_id, "far")
    desk.finish(run_id)
    assert replayed(desk, run_id).first is None

    found = first_after(desk, run_id, None, "joins.won", lambda body: body.update(winners={"end": "near"}))
    assert (found.kind, found.field, found.expected) == ("joins.won", "winners", "near")


def test_changed_code_of_a_tool_and_an_edited_role_are_named(desk: Desk) -> None:
    run_id = finished(desk)

    def look(at: int, closely: bool = False) -> str:
        """Look somewhere else."""
        return ""

    found = replayed(desk, run_id, look=make_tool(look, effect="pure")).first
    assert found is not None
    assert (found.step, found.seq, found.field) == ("ask", 2, "prompt_hash")
    version = desk.house.run_row(run_id).role_versions["asker"]
    desk.house.execute(
        "UPDATE chargehand.role_versions SET text = text || 'More.' WHERE hash = :hash AND tenant = :tenant",
        {"hash": version, "tenant": desk.house.tenant},
    )
    found = replayed(desk, run_id).first
    assert found is not None
    assert (found.step, found.field, found.expected) == ("ask", "text of role asker", version)


def test_a_missing_row_is_named(desk: Desk) -> None:
    run_id = finished(desk)
    desk.house.execute("ALTER TABLE chargehand.journal DISABLE TRIGGER USER")
    desk.house.execute(
        "DELETE FROM chargehand.journal WHERE run = :run AND step = :step AND seq = 4",
        {"run": run_id, "step": step_id(run_id, "ask")},
    )
    desk.house.execute("ALTER TABLE chargehand.journal ENABLE TRIGGER USER")
    found = replayed(desk, run_id).first
    assert found is not None
    assert (found.step, found.seq, found.field) == ("ask", 5, "hash")


def test_an_erased_run_replays_as_far_as_it_can_be_read(house: "House", desk: Desk) -> None:
    run_id = desk.submit(script("a"), agent("ask", "a"), agent("aside"))
    desk.finish(run_id)
    with Session(house.owner) as session, session.begin():
        journal.erase(session, run_id, step=step_id(run_id, "a"))
    found = replayed(desk, run_id)
    assert found.divergences == ()
    assert (found.rows, found.erased, found.requests) == (rows_of(house, run_id), 1, 5)


def rows_of(house: "House", run_id: UUID) -> int:
    return int(house.execute("SELECT count(*) FROM journal WHERE run = :run", {"run": run_id})[0][0])


def test_a_run_that_is_not_there_is_not_replayed(desk: Desk) -> None:
    with pytest.raises(NotFound):
        replayed(desk, uuid4())
