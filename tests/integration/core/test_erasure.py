"""What a run said is erased wherever it was copied to, and every chain still verifies."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
import redis

from chargehand.memory import journal, keyspace, shared_state
from chargehand.memory.artifacts import Artifacts
from chargehand.memory.beliefs import LIBRARY, MemoryItem, Provenance, remember, supersede
from chargehand.memory.keyspace import Keyspace
from chargehand.orchestrator import consolidating, erasure, forks, runs, verification
from chargehand.orchestrator.episodes import continued_by, conversation_name
from chargehand.orchestrator.erasure import Also, Erased
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import StepFinished
from chargehand.orchestrator.forks import ForkRequest
from chargehand.orchestrator.plan import Map, Step, step_id
from chargehand.orchestrator.shared_views import scope_of
from chargehand.workers.recollection import Recollection
from tests.integration.core.conftest import AUDIT_KEY
from tests.integration.core.test_forks import Desk, agent, script

if TYPE_CHECKING:
    from tests.integration.core.conftest import House

SECRET = "Ada Lovelace lives at 12 St James's Square"
KEYS = Keyspace("test")


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    connected = keyspace.connect(redis_url, connect_timeout_seconds=2.0)
    connected.flushdb()
    yield connected
    connected.close()


@pytest.fixture
def desk(house: "House") -> Desk:
    return Desk(house, looks=0)


def erase(house: "House", *run_ids: UUID, client: "redis.Redis | None" = None, **also: Any) -> Erased:
    artifacts = Artifacts(house.settings.artifacts)
    return erasure.erase(
        house.supervisor,
        house.tenant,
        run_ids,
        artifacts=artifacts,
        client=client,
        keyspace=KEYS,
        also=Also(**also),
    )


def told(desk: Desk, **fields: Any) -> UUID:
    """A run that was told the secret in every way, and repeats it."""
    step = agent("ask").model_copy(update={"instruction": SECRET, "arguments": {"who": SECRET}})
    run_id = desk.submit(script("list"), step, goal=SECRET, **fields)
    with desk.house.as_tenant() as session:
        runs.tell(session, desk.house.tenant, run_id, SECRET)
    desk.finish(run_id, {"list": SECRET})
    desk.check(run_id)
    return run_id


def where_it_stands(house: "House") -> list[str]:
    """Every table of the schema that has the secret in some row of the tenant."""
    tables = house.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'chargehand'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    )
    return sorted(
        name
        for (name,) in tables
        if house.execute(
            f"SELECT 1 FROM {name} AS one WHERE strpos(one::text, 'Lovelace') > 0 "
            "AND strpos(one::text, CAST(:tenant AS text)) > 0 LIMIT 1",
            {"tenant": house.tenant},
        )
    )


def verified(house: "House", *run_ids: UUID) -> None:
    with house.as_tenant() as session:
        for run_id in run_ids:
            assert verification.verify_run(session, run_id).objections == ()
        assert journal.verify_anchors(session, house.tenant, key=AUDIT_KEY) == []


def test_what_a_run_said_is_in_no_table_any_more_and_every_chain_verifies(house: "House", desk: Desk) -> None:
    run_id = told(desk)
    other = desk.submit(script("list"))
    desk.finish(other)
    assert {"journal", "runs", "steps"} <= set(where_it_stands(house))

    erased = erase(house, run_id)

    assert erased.runs == (run_id,)
    assert erased.rows > 5
    assert where_it_stands(house) == []
    verified(house, run_id, other)
    assert house.run_row(run_id).status == "succeeded"


def test_values_that_its_agents_shared_are_erased_and_those_of_other_runs_are_not(house: "House", desk: Desk) -> None:
    run_id, other = told(desk), desk.submit(script("list"))
    desk.finish(other)
    for one, value in ((run_id, SECRET), (other, "theirs")):
        with house.as_tenant() as session:
            wanted = {"tenant": house.tenant, "scope": scope_of(one), "key": "who"}
            shared_state.update(session, **wanted, change=lambda _, value=value: {"is": value})

    erase(house, run_id)

    assert where_it_stands(house) == []
    with house.as_tenant() as session:
        read = [
            shared_state.read(session, tenant=house.tenant, scope=scope_of(one), key="who") for one in (run_id, other)
        ]
    assert [(one.value, one.version) for one in read] == [(None, 1), ({"is": "theirs"}, 1)]


def test_forks_and_forks_of_forks_are_reached(house: "House", desk: Desk) -> None:
    run_id = told(desk)
    fork = desk.fork(run_id, "ask")
    desk.finish(fork)
    second = desk.fork(fork, "ask")
    desk.finish(second)

    erased = erase(house, run_id)

    assert set(erased.runs) == {run_id, fork, second}
    assert where_it_stands(house) == []
    verified(house, run_id, fork, second)
    with pytest.raises(UserError, match="erased"):
        desk.fork(run_id, "ask")


def test_a_fork_that_is_being_made_is_waited_for_and_reached(house: "House", desk: Desk) -> None:
    run_id = told(desk)
    request = ForkRequest(run_id=runs.new_run_id(), source=run_id, at="ask")
    with ThreadPoolExecutor() as threads:
        with house.as_tenant() as session:
            forks.accept(session, house.tenant, forks.prepare(session, request))
            erasing = threads.submit(erase, house, run_id)
            wait_for_a_waiter(house)
        # It is a copy that has not ended: nothing was erased.
        with pytest.raises(UserError, match=str(request.run_id)):
            erasing.result(timeout=30)
    desk.finish(request.run_id)
    assert set(erase(house, run_id).runs) == {run_id, request.run_id}


def test_no_fork_is_made_of_what_was_read_before_it_was_erased(house: "House", desk: Desk) -> None:
    run_id = told(desk)
    request = ForkRequest(run_id=runs.new_run_id(), source=run_id, at="ask")
    with house.as_tenant() as session:
        prepared = forks.prepare(session, request)
    erase(house, run_id)
    with pytest.raises(UserError, match="erased"), house.as_tenant() as session:
        forks.accept(session, house.tenant, prepared)
    assert where_it_stands(house) == []


def wait_for_a_waiter(house: "House") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if house.execute("SELECT 1 FROM pg_locks WHERE NOT granted LIMIT 1"):
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def test_what_was_remembered_of_a_run_goes_and_what_that_had_replaced_is_believed_again(
    house: "House", desk: Desk
) -> None:
    run_id = told(desk)

    def item(words: str, **fields: Any) -> MemoryItem:
        return MemoryItem(source="x", line_start=1, line_end=1, text=words, kind="fact", **fields)

    with house.as_tenant() as session:
        keep = {"session": session, "tenant": house.tenant, "scope": LIBRARY, "embedder": None}
        (old,) = remember(**keep, items=[item("Nobody lives there.")])
        fact = supersede(**keep, memory_id=old, item=item(SECRET, provenance=Provenance(run_id=run_id)))
        remember(**keep, items=[item(f"So {SECRET}", derived_from=(fact,))])
        remember(**{**keep, "scope": f"run:{run_id}"}, items=[item(f"A passage: {SECRET}")])

    erased = erase(house, run_id)

    assert (erased.memories, erased.believed_again) == (3, (old,))
    assert where_it_stands(house) == []


def test_the_run_that_consolidated_it_is_reached_and_one_that_was_asked_for_is_not_made(
    house: "House", desk: Desk
) -> None:
    run_id = told(desk)
    follower = desk.submit(script("believe"), idempotency_key=consolidating.key_of(run_id))
    desk.finish(follower, {"believe": SECRET})
    with house.as_tenant() as session:
        consolidating.ask(session, house.tenant, run_id, budget_microusd=10)

    assert set(erase(house, run_id).runs) == {run_id, follower}
    assert house.execute("SELECT 1 FROM submissions") == []
    assert where_it_stands(house) == []


def test_a_conversation_is_gone_from_redis_and_not_shown_from_what_redis_still_holds(
    house: "House", desk: Desk, client: "redis.Redis"
) -> None:
    recollection = Recollection(client, KEYS)
    first = told(desk, conversation_id="chat")
    desk.recollection = recollection
    second = told(desk, conversation_id="chat")
    stream = KEYS.conversation(conversation_name(house.tenant, "chat"))
    assert "Lovelace" in str(client.xrange(stream))

    without_redis = erase(house, first)
    assert without_redis.conversations_left == ("chat",)
    assert without_redis.shown_to == (second,)
    third = desk.submit(agent("ask"), conversation_id="chat", goal="again")
    with house.as_tenant() as session:
        shown = continued_by(session, third)
        later = continued_by(session, second)
    assert shown is not None
    assert shown.runs == (second,)
    assert later is None

    assert erase(house, first, client=client).conversations_left == ()
    assert client.exists(stream) == 0


def test_later_runs_that_were_shown_it_are_reached_where_that_is_asked_for(house: "House", desk: Desk) -> None:
    first = told(desk, conversation_id="chat")
    later = [told(desk, conversation_id="chat") for _ in range(2)]
    elsewhere = desk.submit(script("list"), conversation_id="other")
    desk.finish(elsewhere)

    erased = erase(house, first, later=True)

    assert set(erased.runs) == {first, *later}
    assert erased.shown_to == ()
    assert where_it_stands(house) == []
    verified(house, first, *later, elsewhere)


def test_notes_by_hand_are_reached_by_their_source_and_by_whom_they_speak_of(house: "House", desk: Desk) -> None:
    run_id = told(desk)

    def note(source: str, words: str, **fields: Any) -> UUID:
        item = MemoryItem(source=source, line_start=1, line_end=1, text=words, kind="note", **fields)
        with house.as_tenant() as session:
            return remember(session, tenant=house.tenant, scope=LIBRARY, embedder=None, items=[item])[0]

    hers = note("Ada", "The key is under the mat.")
    concluded = note("run:x", "There is a mat.", derived_from=(hers,))
    about = note("Bob", "I met ADA  Lovelace (again).")
    others = [note("Bob", "Adam was here."), note("Bob", "Ada was here.")]

    erased = erase(house, run_id, sources=("Ada",), subjects=("ada lovelace",))

    assert erased.memories == 3
    left = {row[0] for row in house.execute("SELECT id FROM memories WHERE tenant = :tenant", {"tenant": house.tenant})}
    assert left == set(others)
    assert {hers, concluded, about}.isdisjoint(left)
    assert where_it_stands(house) == []
    # Without a run, and with nothing that a pattern could make of it.
    assert erase(house, subjects=("(Ada",)).memories == 0
    assert erase(house, subjects=("Ada",)).runs == ()
    assert {
        row[0] for row in house.execute("SELECT id FROM memories WHERE tenant = :tenant", {"tenant": house.tenant})
    } == {others[0]}
    with pytest.raises(UserError, match="words in it"):
        erase(house, subjects=(" ",))


def test_a_run_that_recalled_what_is_forgotten_is_named(house: "House", desk: Desk) -> None:
    with house.as_tenant() as session:
        item = MemoryItem(source="Ada", line_start=1, line_end=1, text=SECRET, kind="note")
        (memory,) = remember(session, tenant=house.tenant, scope=LIBRARY, items=[item], embedder=None)
    reader, other = desk.submit(agent("ask")), desk.submit(agent("ask"))
    for run_id, read in ((reader, memory), (other, uuid4())):
        desk.looks.reads = (f"memory:{read}@1",)
        desk.model.looks = 1
        desk.finish(run_id)

    erased = erase(house, sources=("Ada",))

    assert erased.shown_to == (reader,)


def test_its_files_go_unless_another_run_names_them_or_is_about_to(house: "House", desk: Desk) -> None:
    artifacts = Artifacts(house.settings.artifacts)
    own, shared, fresh = (artifacts.put(f"{SECRET} {number} {uuid4()}".encode()) for number in range(3))
    age(artifacts, own)
    run_id, other, third = (desk.submit(script("work")) for _ in range(3))
    for which in (run_id, other, third):
        house.advance(which)
    house.admit()
    for which, named in [(run_id, {"a": own, "b": shared, "c": fresh}), (other, {"b": shared})]:
        house.claim(which, "work").finish(StepFinished(outcome="succeeded", artifacts=named))
        house.advance(which)
    artifacts.repository(run_id).mkdir(parents=True)
    # It may have put the same bytes, and not said so yet.
    at_work = house.claim(third, "work")
    age(artifacts, shared, 0)
    age(artifacts, fresh, 0)

    erased = erase(house, run_id)

    assert (erased.artifacts, erased.artifacts_left) == (1, (fresh,))
    assert [artifacts.exists(digest) for digest in (own, shared, fresh)] == [False, True, True]
    assert not artifacts.repository(run_id).exists()
    at_work.finish(StepFinished(outcome="succeeded"))
    assert erase(house, run_id).artifacts_left == ()
    assert [artifacts.exists(digest) for digest in (shared, fresh)] == [True, False]
    assert house.run_row(run_id).erased_artifacts is None


def age(artifacts: Artifacts, digest: str, seconds: float = 3_600.0) -> None:
    [path] = artifacts.root.glob(f"blobs/*/{digest}")
    then = artifacts.moment() - seconds
    os.utime(path, (then, then))


def test_who_keeps_the_same_bytes_again_saves_them_from_an_erasure(tmp_path: Any) -> None:
    artifacts = Artifacts(tmp_path)
    digest = artifacts.put(b"the same")
    age(artifacts, digest)
    before = artifacts.moment()
    artifacts.put(b"the same")
    assert artifacts.remove(digest, put_before=before) is False
    assert artifacts.get(digest) == b"the same"
    age(artifacts, digest)
    assert artifacts.remove(digest, put_before=before) is True
    assert artifacts.remove(digest, put_before=before) is True
    assert artifacts.put(b"the same") == digest
    assert artifacts.get(digest) == b"the same"


def test_what_has_not_ended_or_is_somebody_elses_is_not_erased(house: "House", desk: Desk) -> None:
    run_id = desk.submit(script("list"), goal=SECRET)
    with pytest.raises(UserError, match="running"):
        erase(house, run_id)
    desk.finish(run_id)
    with pytest.raises(NotFound):
        erasure.erase(
            house.supervisor,
            uuid4(),
            [run_id],
            artifacts=Artifacts(house.settings.artifacts),
            client=None,
            keyspace=KEYS,
        )
    assert "runs" in where_it_stands(house)
    erase(house, run_id)


def test_a_step_without_its_words_is_still_a_step() -> None:
    body = Step(key="do", kind="script", script="work", arguments={"who": SECRET})
    mapped = Step(key="each", kind="map", title=SECRET, map=Map(items=[SECRET], body=(body,)))
    emptied = erasure.emptied(mapped)
    assert "Lovelace" not in emptied.model_dump_json()
    assert Step.model_validate(emptied.model_dump()).body[0].key == "do"
    assert step_id(UUID(int=1), emptied.key) == step_id(UUID(int=1), "each")
