"""Forks on real Postgres: exactly what was built on the step is done and paid again, and nothing else is touched."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue

from chargehand.memory import journal, procedural
from chargehand.memory.artifacts import Artifacts
from chargehand.memory.git import run_git
from chargehand.memory.procedural import Role
from chargehand.orchestrator import forks, runs, views
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import AnyFact, StepFinished, Usage, WorkspaceRef, parse_fact
from chargehand.orchestrator.forking import Change
from chargehand.orchestrator.forks import ForkRequest
from chargehand.orchestrator.plan import RESULT_OF, Branch, Map, Repeat, Step, step_id
from chargehand.workers.executor import execute
from chargehand.workers.models.interface import ModelAnswer, ModelCall, Quote
from chargehand.workers.recollection import Recollection
from chargehand.workers.tools.registry import Tool, ToolOutput, make_tool
from chargehand.workers.workspace import open_workspace

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

ROLE = """---
name: {name}
description: {name}
pool: research
tier: small
tools: [look]
output: researcher
---
{text}
"""
COST = 7
NOTHING: Mapping[str, JsonValue] = MappingProxyType({})


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script="work", after=after, **fields)


def agent(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="agent", role="asker", after=after, instruction=f"Do {key}", **fields)


def role(name: str = "asker", text: str = "Answer.") -> Role:
    return procedural.parse_role(ROLE.format(name=name, text=text), origin="test")


@dataclass
class Model:
    """Looks `looks` times, then answers; keeps every call."""

    looks: int = 2
    calls: list[ModelCall] = field(default_factory=list)
    stopped_at: int | None = None

    def stop_after(self, calls: int) -> None:
        """Let the process die in the call after these."""
        self.stopped_at = len(self.calls) + calls

    def quote(self, call: ModelCall) -> Quote:
        return Quote(
            model=call.model or f"{call.tier}-1",
            tier=call.tier,
            reserved_microusd=10,
            max_tokens=call.max_tokens,
            routed_because="test",
        )

    def call(self, call: ModelCall) -> ModelAnswer:
        if len(self.calls) == self.stopped_at:
            self.stopped_at = None
            raise KeyboardInterrupt
        self.calls.append(call)
        said = sum(message["role"] == "assistant" for message in call.messages)
        name, given = ("look", {"at": said}) if said < self.looks else ("submit_answer", self._answer(call))
        use: dict[str, JsonValue] = {"type": "tool_use", "id": f"u{said}", "name": name, "input": given}
        return ModelAnswer(
            model=str(call.model),
            content=(use,),
            stop_reason="tool_use",
            usage=Usage(),
            cost_microusd=COST,
            duration_ms=1,
        )

    def _answer(self, call: ModelCall) -> dict[str, JsonValue]:
        return {"question": str(len(self.calls)), "found": False, "answer": str(call.model), "quotes": []}


@dataclass
class Looks:
    """A pure tool that counts."""

    seen: list[int] = field(default_factory=list)
    reads: tuple[str, ...] = ()
    """What it says that its results rest on."""

    def tool(self) -> Tool:
        def look(at: int) -> ToolOutput:
            """Look somewhere."""
            self.seen.append(at)
            return ToolOutput(content=f"seen {at}", reads=self.reads)

        return make_tool(look, effect="pure")


class Desk:
    """The house with an agent's model and tool; runs whatever is queued to the end."""

    def __init__(self, house: "House", *, looks: int = 2) -> None:
        self.house, self.model, self.looks = house, Model(looks=looks), Looks()
        self.scripts: list[str] = []
        self.recollection: Recollection | None = None
        self.open_pools()

    def open_pools(self) -> None:
        for pool in ("research", "coding", "audit"):
            self.house.open_pool(pool)

    def submit(self, *planned: Step, **fields: Any) -> UUID:
        with self.house.as_tenant() as session:
            return runs.accept(session, self.house.tenant, self.house.request(*planned, **fields), [role()])

    def fork(self, source: UUID, at: str, turn: int | None = None, **fields: Any) -> UUID:
        request = ForkRequest(run_id=runs.new_run_id(), source=source, at=at, turn=turn, **fields)
        artifacts = Artifacts(self.house.settings.artifacts)
        return forks.fork(self.house.app, self.house.tenant, artifacts, request)

    def finish(self, run_id: UUID, results: dict[str, JsonValue] | None = None) -> None:
        """Work until the run has ended; scripts give what is said here, or their key."""
        for _ in range(60):
            # What is left alone for so long as a busy machine takes is a dead pool.
            self.open_pools()
            while self.house.rings(run_id):
                self.house.advance(run_id)
            self.house.admit()
            queued = [key for key, status in self.house.statuses(run_id).items() if status == "queued"]
            for key in queued:
                self.work(run_id, key, results or {})
            if not queued and not self.house.rings(run_id):
                return
        raise AssertionError(self.house.statuses(run_id))

    def work(self, run_id: UUID, key: str, results: Mapping[str, JsonValue] = NOTHING) -> None:
        """Claim the step and do it."""
        spec = self.house.row(run_id, key).spec
        if spec["kind"] == "agent":
            shop = replace(
                self.house.shop(),
                models=self.model,
                tools={"look": self.looks.tool()},
                recollection=self.recollection,
            )
            execute(shop, tenant=self.house.tenant, step_id=step_id(run_id, key))
            return
        self.scripts.append(key)
        self.house.run(run_id, key, results.get(key, key))

    def results(self, run_id: UUID) -> dict[str, StepFinished]:
        with self.house.as_tenant() as session:
            return views.results(session, run_id)

    def facts(self, run_id: UUID, key: str) -> list[AnyFact]:
        with self.house.as_tenant() as session:
            stream = journal.read(session, run_id, step=step_id(run_id, key))
        return [parse_fact(entry.body or "", schema_version=entry.schema_version) for entry in stream]

    def journal(self, run_id: UUID) -> list[tuple[Any, ...]]:
        return [
            tuple(row)
            for row in self.house.execute(
                "SELECT step, seq, hash, body FROM journal WHERE run = :run ORDER BY 1, 2", {"run": run_id}
            )
        ]

    def check(self, run_id: UUID, status: str = "succeeded") -> None:
        assert self.house.run_row(run_id).status == status, self.house.statuses(run_id)
        assert self.house.drift(run_id) == []
        assert self.house.objections(run_id) == []

    def cost(self, run_id: UUID) -> int:
        with self.house.as_tenant() as session:
            account = views.account(session, run_id)
        spent = self.house.execute("SELECT sum(spent_microusd) FROM steps WHERE run = :run", {"run": run_id})[0][0]
        assert account.cost_microusd == spent
        return account.cost_microusd


PLAN = (
    script("list"),
    agent("first", "list"),
    agent("second", "first"),
    agent("aside", "list"),
    script("end", "second", "aside"),
)


def test_a_fork_pays_only_for_what_was_built_on_its_step_and_leaves_the_run_untouched(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(*PLAN)
    desk.finish(source)
    desk.check(source)
    assert (len(desk.model.calls), desk.cost(source)) == (9, 9 * COST)
    before = desk.journal(source)
    desk.model.calls.clear()
    desk.scripts.clear()

    fork = desk.fork(source, "second")
    desk.finish(fork)

    desk.check(fork)
    assert (len(desk.model.calls), desk.cost(fork)) == (3, 3 * COST)
    assert desk.scripts == ["end"]
    assert house.row(fork, "first").epoch == house.row(fork, "aside").epoch == 0
    assert desk.journal(source) == before
    desk.check(source)


def test_what_is_taken_over_says_where_it_comes_from_and_is_where_results_are(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(*PLAN)
    desk.finish(source)
    fork = desk.fork(source, "second")
    ends, old = desk.results(fork), desk.results(source)
    assert set(ends) == {"list", "first", "aside"}
    assert ends["first"].result == old["first"].result
    origin = ends["first"].copied_from
    assert origin is not None
    assert (origin.run, origin.step) == (source, step_id(source, "first"))
    rows = {(row[0], row[1]): row[2] for row in desk.journal(source)}
    assert bytes(rows[origin.step, origin.seq]).hex() == origin.hash
    assert house.kinds(fork, "first") == ["step.finished"]
    assert house.drift(fork) == []
    # A fork of the fork names who worked for it.
    desk.finish(fork)
    again = desk.fork(fork, "end")
    assert desk.results(again)["first"].copied_from == origin
    desk.finish(again)
    desk.check(again)


def test_before_the_turn_nothing_is_asked_or_looked_at_again(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(agent("ask"), script("end", "ask"))
    desk.finish(source)
    whole = desk.model.calls[-1]
    desk.model.calls.clear()
    desk.looks.seen.clear()

    fork = desk.fork(source, "ask", turn=3)
    desk.finish(fork)

    desk.check(fork)
    assert (len(desk.model.calls), desk.cost(fork), desk.looks.seen) == (1, COST, [])
    # The model is sent what it was sent then, to the byte.
    assert json.dumps(desk.model.calls[0].messages) == json.dumps(whole.messages)
    assert house.kinds(fork, "ask")[:2] == ["step.forked", "step.claimed"]
    assert house.row(fork, "ask").turns == 1


def test_a_turn_is_done_with_another_model_and_what_it_had_looked_at(house: "House") -> None:
    desk = Desk(house, looks=3)
    source = desk.submit(agent("ask"))
    desk.finish(source)
    desk.model.calls.clear()
    fork = desk.fork(source, "ask", turn=3, change=Change(model="big-9"))
    desk.finish(fork)
    desk.check(fork)
    assert [call.model for call in desk.model.calls] == ["big-9", "big-9"]
    assert desk.looks.seen == [0, 1, 2, 2]


def test_a_second_crash_of_a_fork_at_a_turn_asks_nothing_twice(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(agent("ask"))
    desk.finish(source)
    fork = desk.fork(source, "ask", turn=2)
    house.advance(fork)
    house.admit()
    house.claim(fork, "ask")
    house.expire(fork, "ask")
    assert house.recover() == 1
    desk.model.calls.clear()
    desk.finish(fork)
    desk.check(fork)
    assert len(desk.model.calls) == 2


def test_another_version_of_the_role_holds_for_what_is_done_anew(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(agent("first"), agent("second", "first"))
    desk.finish(source)
    desk.model.calls.clear()
    better = role(text="Answer in verse.")
    fork = desk.fork(source, "second", roles=(better,))
    desk.finish(fork)
    desk.check(fork)
    assert [block["text"] for block in desk.model.calls[0].system][1] == "Answer in verse."
    assert house.run_row(fork).role_versions["asker"] == better.blob_hash
    assert house.run_row(source).role_versions["asker"] == role().blob_hash
    with pytest.raises(UserError, match="has no role 'other'"):
        desk.fork(source, "second", roles=(role("other"),))


def test_another_input_tier_and_instruction_are_the_steps(house: "House") -> None:
    desk = Desk(house, looks=0)
    source = desk.submit(agent("ask", arguments={"a": 1, "b": 2}))
    desk.finish(source)
    change = Change(instruction="Look closer", tier="large", arguments={"b": [3]})
    fork = desk.fork(source, "ask", change=change)
    desk.finish(fork)
    desk.check(fork)
    call = desk.model.calls[-1]
    assert call.tier == "large"
    assert "Look closer" in json.dumps(call.messages)
    assert '{\\"a\\":1,\\"b\\":[3]}' in json.dumps(call.messages)


def test_a_running_run_is_left_while_it_goes_on(house: "House") -> None:
    desk = Desk(house, looks=0)
    source = desk.submit(script("a"), script("b", "a"), script("slow"), script("end", "b", "slow"))
    house.advance(source)
    house.admit()
    house.run(source, "a", "done")
    held = house.claim(source, "slow")
    fork = desk.fork(source, "b")
    assert house.statuses(fork) == {"a": "succeeded", "slow": "pending", "b": "pending", "end": "pending"}
    desk.scripts.clear()
    desk.finish(fork)
    desk.check(fork)
    assert sorted(desk.scripts) == ["b", "end", "slow"]
    held.finish(StepFinished(outcome="succeeded"))
    desk.finish(source)
    desk.check(source)


EACH = Step(key="each", kind="map", after=("list",), map=Map(items={RESULT_OF: "list"}, body=(script("one"),)))


def test_one_item_of_a_map_is_done_anew(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(script("list"), EACH, script("end", "each"))
    desk.finish(source, {"list": [1, 2, 3]})
    desk.scripts.clear()
    fork = desk.fork(source, "each/1/one")
    desk.finish(fork, {"each/1/one": "better"})
    desk.check(fork)
    assert desk.scripts == ["each/1/one", "end"]
    assert desk.results(fork)["each"].result == ["each/0/one", "better", "each/2/one"]


def test_a_map_grows_again_on_another_list(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(script("list"), EACH, script("end", "each"))
    desk.finish(source, {"list": [1, 2, 3]})
    desk.scripts.clear()
    fork = desk.fork(source, "list")
    desk.finish(fork, {"list": [1]})
    desk.check(fork)
    assert desk.scripts == ["list", "each/0/one", "end"]


def test_a_repeat_goes_on_from_a_round_and_a_branch_takes_another_way(house: "House") -> None:
    desk = Desk(house)
    body = (script("code"), script("test", "code"))
    loop = Step(key="loop", kind="repeat", repeat=Repeat(body=body, until="test", max_rounds=4))
    which = Step(key="which", kind="branch", after=("loop",), branch=Branch(labels=("x", "y"), script="choose"))
    ways = [script(way, "which", when={"which": way}) for way in ("x", "y")]
    source = desk.submit(loop, which, *ways, script("end", "x", "y"))
    desk.finish(source, {"loop/1/test": False, "loop/2/test": False, "loop/3/test": True, "which/choose": "x"})
    desk.check(source)
    desk.scripts.clear()

    fork = desk.fork(source, "loop/2/test")
    desk.finish(fork, {"loop/2/test": True, "which/choose": "y"})

    desk.check(fork)
    assert desk.scripts == ["loop/2/test", "which/choose", "y", "end"]
    assert desk.results(fork)["loop"].result == {"rounds": 2, "passed": True, "verdict": True}
    assert house.statuses(fork)["x"] == "skipped"
    # Behind the branch its way is taken over with it.
    later = desk.fork(source, "x")
    desk.scripts.clear()
    desk.finish(later)
    desk.check(later)
    assert desk.scripts == ["x", "end"]
    assert house.row(later, "which").label == "x"


def test_what_was_cancelled_with_the_run_is_done_in_the_fork(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(script("list"), EACH, script("end", "each"))
    house.advance(source)
    house.admit()
    house.run(source, "list", [1, 2])
    while house.rings(source):
        house.advance(source)
    house.admit()
    house.run(source, "each/0/one", "kept")
    with house.as_tenant() as session:
        runs.cancel(session, house.tenant, source)
    house.advance(source)
    desk.scripts.clear()
    fork = desk.fork(source, "end")
    desk.finish(fork)
    desk.check(fork)
    assert desk.scripts == ["each/1/one", "end"]
    assert desk.results(fork)["each"].result == ["kept", "each/1/one"]


def test_a_failed_step_is_done_anew_and_the_run_succeeds(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(script("a"), script("b", "a"), script("c", "b"))
    house.advance(source)
    house.admit()
    house.run(source, "a")
    house.claim(source, "b").finish(StepFinished(outcome="failed", error="no"))
    desk.finish(source)
    desk.check(source, "failed")
    fork = desk.fork(source, "b")
    desk.finish(fork)
    desk.check(fork)


def test_the_same_fork_is_asked_for_twice_and_made_once(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(script("a"))
    desk.finish(source)
    first = desk.fork(source, "a", idempotency_key="k", budget_microusd=42)
    assert desk.fork(source, "a", idempotency_key="k") == first
    assert house.budget(first).cap_microusd == 42
    view = views.view_run
    with house.as_tenant() as session:
        assert view(session, first).forked_from == source
    with pytest.raises(NotFound):
        desk.fork(uuid4(), "a")
    with pytest.raises(UserError, match="no step 'x'"):
        desk.fork(source, "x")


def test_another_tenants_run_is_not_there_to_be_left(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(script("a"))
    house.tenant = uuid4()
    with pytest.raises(NotFound):
        desk.fork(source, "a")


def test_commits_that_were_taken_over_are_in_the_forks_own_repository(house: "House", tmp_path: Path) -> None:
    desk = Desk(house)
    artifacts = Artifacts(house.settings.artifacts)
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "a.txt").write_text("a\n")
    environment = dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "x@example.org")
    environment |= dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "X")
    run_git("init", "-q", git_dir=origin / ".git", work_tree=origin)
    run_git("add", "-A", git_dir=origin / ".git", work_tree=origin)
    run_git("commit", "-qm", "a", git_dir=origin / ".git", work_tree=origin, environment=environment)
    request = house.request(script("edit"), script("end", "edit"))
    imported = artifacts.import_repository(str(origin), run_id=request.run_id)
    workspace = WorkspaceRef(source=str(origin), commit=imported.commit)
    with house.as_tenant() as session:
        source = runs.accept(session, house.tenant, request.model_copy(update={"workspace": workspace}), [])
    clone = open_workspace(
        artifacts.repository(source),
        tmp_path / "clones",
        run_id=source,
        step_id=uuid4(),
        epoch=1,
        commit=imported.commit,
    )
    (clone.path / "a.txt").write_text("changed\n")
    commit = clone.commit("Change it")
    clone.close()
    house.advance(source)
    house.admit()
    house.claim(source, "edit").finish(StepFinished(outcome="succeeded", commit=commit))
    desk.finish(source)

    fork = desk.fork(source, "end")
    # Nothing of the fork needs the run that it left.
    artifacts.repository(source).rename(tmp_path / "gone.git")

    repository = artifacts.repository(fork)
    assert desk.results(fork)["edit"].commit == commit
    assert run_git("show", f"{commit}:a.txt", git_dir=repository) == b"changed\n"
    second = open_workspace(repository, tmp_path / "clones", run_id=fork, step_id=uuid4(), epoch=1, commit=commit)
    (second.path / "a.txt").write_text("changed again\n")
    second.commit("Change it again")
    second.close()


def test_hundreds_of_items_are_taken_over(house: "House") -> None:
    desk = Desk(house)
    source = desk.submit(script("list"), EACH, script("end", "each"))
    house.advance(source)
    house.admit()
    house.run(source, "list", list(range(150)))
    desk.finish(source)
    desk.check(source)
    desk.scripts.clear()
    fork = desk.fork(source, "end")
    assert sum(status == "succeeded" for status in house.statuses(fork).values()) == 152
    desk.finish(fork)
    desk.check(fork)
    assert desk.scripts == ["end"]
