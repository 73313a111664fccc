"""What was believed when, and on whose word, on a real Postgres under row-level security."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from chargehand.memory.beliefs import MemoryItem, MemoryNotFound, Provenance, remember, supersede
from chargehand.memory.database import APP_ROLE, SUPERVISOR_ROLE, open_engine, tenant_session
from chargehand.memory.forgetting import forget, sweep
from chargehand.memory.semantic import is_known, nearest, recall
from tests.integration.memory.test_semantic import CountingEmbedder, note, unit

OpenSession = Callable[[], AbstractContextManager[Session]]
EMBEDDER = CountingEmbedder()
TEN, TWENTY, THIRTY = note("The limit is 10."), note("The limit is 20."), note("The limit is 30.")
DAY = 86_400.0


@pytest.fixture
def moment(open_session: OpenSession) -> Callable[[], datetime]:
    """The database's time, later than everything before and earlier than everything after."""

    def now() -> datetime:
        with open_session() as session:
            return session.execute(select(func.clock_timestamp())).scalar_one()

    return now


def kept(session: Session, tenant: UUID, *items: MemoryItem) -> tuple[UUID, ...]:
    return remember(session, tenant=tenant, scope="s", items=items, embedder=EMBEDDER)


def replaced(session: Session, tenant: UUID, older: UUID, item: MemoryItem) -> UUID:
    return supersede(session, tenant=tenant, scope="s", memory_id=older, item=item, embedder=EMBEDDER)


def texts(session: Session, tenant: UUID, query: str = "limit", as_of: datetime | None = None) -> list[str]:
    found = recall(session, tenant=tenant, scope="s", query=query, embedder=EMBEDDER, as_of=as_of)
    return sorted(memory.text for memory in found)


def backdate(owner: Engine, tenant: UUID, column: str, seconds: float) -> None:
    with owner.begin() as connection:
        connection.execute(
            text(f"UPDATE memories SET {column} = clock_timestamp() - make_interval(secs => :s) WHERE tenant = :t"),
            {"s": seconds, "t": tenant},
        )


# --- what was believed when


def test_a_search_as_of_a_moment_finds_what_was_believed_then(
    open_session: OpenSession, tenant: UUID, moment: Callable[[], datetime]
) -> None:
    before = moment()
    with open_session() as session:
        (ten,) = kept(session, tenant, TEN)
    first = moment()
    with open_session() as session:
        twenty = replaced(session, tenant, ten, TWENTY)
    second = moment()
    with open_session() as session:
        replaced(session, tenant, twenty, TEN)

    with open_session() as session:
        assert texts(session, tenant, as_of=before) == []
        assert texts(session, tenant, as_of=first) == [TEN.text]
        assert texts(session, tenant, as_of=second) == [TWENTY.text]
        assert texts(session, tenant) == [TEN.text]
        then = recall(session, tenant=tenant, scope="s", query="limit", embedder=EMBEDDER, as_of=second)
    assert then[0].superseded_by == ten


def test_there_is_no_moment_between_a_memory_and_the_one_that_replaces_it(
    open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        (ten,) = kept(session, tenant, TEN)
    with open_session() as session:
        twenty = replaced(session, tenant, ten, TWENTY)
        periods = dict(
            session.execute(text("SELECT id, ARRAY[lower(believed), upper(believed)] FROM memories")).all()  # type: ignore[arg-type]
        )

    assert periods[ten][1] == periods[twenty][0]
    assert periods[twenty][1] is None


def test_every_way_to_search_honours_the_moment(
    open_session: OpenSession, tenant: UUID, moment: Callable[[], datetime]
) -> None:
    with open_session() as session:
        (ten,) = kept(session, tenant, TEN)
    first = moment()
    with open_session() as session:
        twenty = replaced(session, tenant, ten, TWENTY)

    with open_session() as session:
        for as_of, expected in [(first, ten), (None, twenty)]:
            for exact_up_to in (0, 100):
                near = nearest(
                    session,
                    tenant=tenant,
                    scope="s",
                    vector=unit(1),
                    embedder=EMBEDDER,
                    kinds=None,
                    limit=5,
                    exact_up_to=exact_up_to,
                    as_of=as_of,
                )
                assert set(near) == {expected}
            function = "lexical_recall('limit', 's', NULL, 9" + (")" if as_of is None else ", NULL, :as_of)")
            function = function if as_of is None else function.replace("lexical_recall", "lexical_recall_at")
            words = session.execute(text(f"SELECT memory FROM {function}"), {"as_of": as_of} if as_of else {})
            assert [memory for (memory,) in words] == [expected]


def test_a_moment_without_a_time_zone_is_refused(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session, pytest.raises(ValueError, match="time zone"):
        texts(session, tenant, as_of=datetime(2026, 1, 1))  # noqa: DTZ001


# --- once, whoever says it


def remember_in_a_process(database_url: str, tenant: UUID, gate: object, answers: object) -> None:
    engine = open_engine(database_url, role=APP_ROLE)
    gate.wait()  # type: ignore[attr-defined]
    with tenant_session(engine, tenant) as session:
        answers.put([str(one) for one in kept(session, tenant, TEN, TWENTY, THIRTY)])  # type: ignore[attr-defined]


def test_processes_that_remember_the_same_at_once_make_one_row(
    database_url: str, open_session: OpenSession, tenant: UUID
) -> None:
    spawning = multiprocessing.get_context("spawn")
    gate, answers = spawning.Barrier(2), spawning.Queue()
    racers = [
        spawning.Process(target=remember_in_a_process, args=(database_url, tenant, gate, answers)) for _ in range(2)
    ]
    for racer in racers:
        racer.start()
    given = [answers.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(timeout=60)

    assert given[0] == given[1]
    with open_session() as session:
        assert session.scalar(text("SELECT count(*) FROM memories")) == 3
        assert session.scalar(text("SELECT count(*) FROM embeddings")) == 3


def test_who_remembers_what_is_about_to_be_committed_waits_and_writes_nothing(
    engine: Engine, open_session: OpenSession, tenant: UUID
) -> None:
    with ThreadPoolExecutor() as threads:
        with open_session() as first:
            (one,) = kept(first, tenant, TEN)

            def again() -> tuple[UUID, ...]:
                with open_session() as second:
                    return kept(second, tenant, TEN)

            other = threads.submit(again)
            wait_for_a_waiter(engine)
        assert other.result(timeout=30) == (one,)
    with open_session() as session:
        assert session.scalar(text("SELECT count(*) FROM memories")) == 1


def wait_for_a_waiter(engine: Engine) -> None:
    """Until some session waits for a lock of another."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            waiting = connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one()
        if waiting:
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


# --- expiry


def test_an_expired_memory_is_not_recalled_and_one_that_is_remembered_anew_is(
    open_session: OpenSession, owner: Engine, tenant: UUID, moment: Callable[[], datetime]
) -> None:
    with open_session() as session:
        kept(session, tenant, replace(TEN, expires_after_seconds=DAY))
        assert texts(session, tenant) == [TEN.text]
        assert is_known(session, tenant=tenant, scope="s")
    alive = moment()
    backdate(owner, tenant, "expires_at", 0)
    dead = moment()
    with open_session() as session:
        assert texts(session, tenant) == []
        assert texts(session, tenant, as_of=alive) == [TEN.text]
        assert not is_known(session, tenant=tenant, scope="s")

    with open_session() as session:
        kept(session, tenant, TEN)
    with open_session() as session:
        assert texts(session, tenant) == [TEN.text]
        assert texts(session, tenant, as_of=dead) == []
        assert session.scalar(text("SELECT expires_at FROM memories")) is None


def test_a_longer_life_is_given_and_a_shorter_one_is_not(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        for days in (2.0, 9.0, 1.0):
            kept(session, tenant, replace(TEN, expires_after_seconds=days * DAY))
        left = session.scalar(text("SELECT extract(epoch FROM expires_at - clock_timestamp()) FROM memories"))

    assert 8.9 * DAY < float(left) < 9.1 * DAY


@contextmanager
def as_supervisor(database_url: str) -> Iterator[Session]:
    engine = open_engine(database_url, role=SUPERVISOR_ROLE)
    with Session(engine) as session, session.begin():
        yield session
    engine.dispose()


def test_what_has_expired_is_swept_a_bounded_number_at_a_time(
    database_url: str, open_session: OpenSession, owner: Engine, tenant: UUID
) -> None:
    with open_session() as session:
        kept(session, tenant, *(replace(one, expires_after_seconds=DAY) for one in (TEN, TWENTY, THIRTY)))
        kept(session, tenant, note("stays"))
    backdate(owner, tenant, "expires_at", 1)
    with owner.begin() as connection:
        connection.execute(text("UPDATE memories SET expires_at = NULL WHERE text = 'stays'"))

    swept = []
    for _ in range(3):
        with as_supervisor(database_url) as session:
            swept.append(sweep(session, most=2))

    assert swept == [2, 1, 0]
    with open_session() as session:
        assert session.scalars(text("SELECT text FROM memories")).all() == ["stays"]
        assert session.scalar(text("SELECT count(*) FROM embeddings")) == 1


def test_a_source_whose_memory_was_swept_can_still_be_forgotten_with_what_came_of_it(
    database_url: str, open_session: OpenSession, owner: Engine, tenant: UUID
) -> None:
    with open_session() as session:
        (lie,) = kept(session, tenant, note("a lie", source="evil.md"))
        (child,) = kept(session, tenant, note("so", derived_from=(lie,)))
    with owner.begin() as connection:
        connection.execute(
            text("UPDATE memories SET expires_at = clock_timestamp() WHERE id = :id AND tenant = :t"),
            {"id": lie, "t": tenant},
        )
    for _ in range(2):
        with as_supervisor(database_url) as session:
            sweep(session, most=10)
    with open_session() as session:
        assert session.scalar(text("SELECT text FROM memories WHERE id = :id"), {"id": lie}) == ""
        assert texts(session, tenant, "lie") == ["so"]
        assert set(forget(session, tenant=tenant, source="evil.md").memories) == {lie, child}


# --- importance


def test_of_two_memories_that_answer_alike_the_one_that_matters_comes_first(
    open_session: OpenSession, tenant: UUID
) -> None:
    # By words alone, which are the same.
    trivial = replace(note("Deploys happen on Tuesdays.", source="docs"), importance=0.1)
    grave = replace(note("Deploys happen on Tuesdays.", source="mail"), importance=0.9)
    with open_session() as session:
        ids = remember(session, tenant=tenant, scope="s", items=[trivial, grave], embedder=None)
        found = recall(session, tenant=tenant, scope="s", query="Deploys Tuesdays", embedder=EMBEDDER)

    assert [memory.memory_id for memory in found] == [ids[1], ids[0]]
    assert found[0].score - found[1].score == pytest.approx(0.15 * 0.8, abs=0.001)
    assert found[0].importance == pytest.approx(0.9)


def test_a_recall_refreshes_what_ages_and_at_most_hourly(
    open_session: OpenSession, owner: Engine, tenant: UUID
) -> None:
    with open_session() as session:
        kept(session, tenant, replace(TEN, importance=0.8))
        passage = remember(session, tenant=tenant, scope="s", items=[note("A passage about the limit.")], embedder=None)
        texts(session, tenant)
        assert session.scalars(text("SELECT DISTINCT recalled_at FROM memories")).all() == [None]
    backdate(owner, tenant, "created_at", 60 * DAY)

    def score() -> float:
        with open_session() as session:
            found = recall(session, tenant=tenant, scope="s", query="limit is 10", embedder=EMBEDDER)
        return next(memory.score for memory in found if memory.text == TEN.text)

    faded, fresh = score(), score()

    # Two half-lives: .15 of .8 against .15 of .2.
    assert fresh - faded == pytest.approx(0.15 * 0.6, abs=0.001)
    with open_session() as session:
        noted = session.execute(text("SELECT id FROM memories WHERE recalled_at IS NOT NULL")).scalars().all()
    assert passage[0] not in noted
    assert len(noted) == 1


# --- whose word


def test_a_conclusion_is_trusted_no_more_than_what_it_was_drawn_from(open_session: OpenSession, tenant: UUID) -> None:
    by_person = replace(note("said by a person"), trust="person")
    read = replace(note("read in a file"), trust="content")
    trace = Provenance(run_id=uuid4(), step_id=uuid4(), tool="submit_answer", role_version="ab12")
    with open_session() as session:
        person, content = kept(session, tenant, by_person, read)
        own = replace(note("concluded", derived_from=(person,)), trust="conclusion", provenance=trace)
        mixed = replace(note("concluded from both", derived_from=(person, content)), trust="person")
        kept(session, tenant, own, mixed)
        found = {
            memory.text: memory
            for memory in recall(session, tenant=tenant, scope="s", query="said concluded", embedder=EMBEDDER)
        }

    assert found["said by a person"].trust == "person"
    assert found["concluded"].trust == "conclusion"
    assert found["concluded from both"].trust == "content"
    traced = found["concluded"]
    assert (traced.run_id, traced.step_id, traced.tool) == (trace.run_id, trace.step_id, trace.tool)
    assert traced.role_version == trace.role_version


# --- forgetting


def test_what_is_being_concluded_from_a_source_goes_with_it(
    engine: Engine, open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        (lie,) = kept(session, tenant, note("a lie", source="evil.md"))

    def forgotten() -> tuple[UUID, ...]:
        with open_session() as session:
            return forget(session, tenant=tenant, source="evil.md").memories

    with ThreadPoolExecutor() as threads:
        with open_session() as deriving:
            (child,) = kept(deriving, tenant, note("so", derived_from=(lie,)))
            forgetting = threads.submit(forgotten)
            wait_for_a_waiter(engine)
        assert set(forgetting.result(timeout=30)) == {lie, child}
    with open_session() as session:
        assert session.scalar(text("SELECT count(*) FROM memories")) == 0


def test_nothing_is_concluded_from_what_is_being_forgotten(
    engine: Engine, open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        (lie,) = kept(session, tenant, note("a lie", source="evil.md"))

    def derived() -> tuple[UUID, ...]:
        with open_session() as session:
            return kept(session, tenant, note("so", derived_from=(lie,)))

    with ThreadPoolExecutor() as threads:
        with open_session() as session:
            forget(session, tenant=tenant, source="evil.md")
            deriving = threads.submit(derived)
            wait_for_a_waiter(engine)
        with pytest.raises(MemoryNotFound, match="forgotten"):
            deriving.result(timeout=30)
    with open_session() as session:
        assert session.scalar(text("SELECT count(*) FROM memories")) == 0


def test_what_rests_on_a_source_of_which_nothing_is_remembered_goes_with_it(
    open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        (lesson,) = kept(session, tenant, replace(note("a lesson"), rests_on=("a.md", "evil.md")))
        (child,) = kept(session, tenant, note("so", derived_from=(lesson,)))
        kept(session, tenant, note("another", source="a.md"))
        assert set(forget(session, tenant=tenant, source="evil.md").memories) == {lesson, child}


def test_a_poisoned_lesson_is_rolled_back_with_all_that_came_of_it(
    open_session: OpenSession, tenant: UUID, moment: Callable[[], datetime]
) -> None:
    with open_session() as session:
        (ten,) = kept(session, tenant, TEN)
    with open_session() as session:
        lesson = replaced(session, tenant, ten, TWENTY)
        (other,) = kept(session, tenant, note("Deploys are free."))
        worse = replaced(session, tenant, other, note("Deploys cost money.", derived_from=(lesson,)))
    poisoned = moment()

    with open_session() as session:
        undone = forget(session, tenant=tenant, memories=[lesson])

    assert set(undone.memories) == {lesson, worse}
    assert set(undone.believed_again) == {ten, other}
    with open_session() as session:
        assert texts(session, tenant) == sorted([TEN.text, "Deploys are free."])
        # It was not believed while the lesson was.
        assert texts(session, tenant, as_of=poisoned) == []


def test_what_a_better_memory_replaced_meanwhile_is_not_believed_again(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        (ten,) = kept(session, tenant, TEN)
        lesson = replaced(session, tenant, ten, replace(TWENTY, source="evil.md"))
        thirty = replaced(session, tenant, lesson, THIRTY)
        undone = forget(session, tenant=tenant, source="evil.md")

        assert undone.memories == (lesson,)
        assert undone.believed_again == ()
        assert texts(session, tenant) == [THIRTY.text]
        assert session.scalar(text("SELECT superseded_by FROM memories WHERE id = :id"), {"id": ten}) == thirty


def test_what_came_of_a_run_is_forgotten_with_it(open_session: OpenSession, tenant: UUID) -> None:
    run = uuid4()
    with open_session() as session:
        (fact,) = kept(session, tenant, replace(note("a fact"), provenance=Provenance(run_id=run)))
        (child,) = kept(session, tenant, note("so", derived_from=(fact,)))
        kept(session, tenant, replace(note("of another"), provenance=Provenance(run_id=uuid4())))
        assert set(forget(session, tenant=tenant, runs=[run]).memories) == {fact, child}


def test_to_forget_nothing_in_particular_is_refused(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session, pytest.raises(ValueError, match="Nothing was named"):
        forget(session, tenant=tenant)


def test_the_other_tenants_memories_are_neither_forgotten_nor_recalled(engine: Engine, tenant: UUID) -> None:
    other = uuid4()
    with tenant_session(engine, other) as session:
        kept(session, other, replace(TEN, source="evil.md"))
    with tenant_session(engine, tenant) as session:
        assert forget(session, tenant=tenant, source="evil.md").memories == ()
        assert texts(session, tenant, as_of=datetime.now(UTC) + timedelta(days=1)) == []
    with tenant_session(engine, other) as session:
        assert texts(session, other) == [TEN.text]
