"""A change of the embedding model while agents work: vectors anew in the background, and words meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from chargehand.memory.beliefs import LIBRARY, MemoryItem, remember
from chargehand.memory.database import tenant_session
from chargehand.memory.redlock import Lock, LockBusy, Redlock
from chargehand.memory.reindexing import count_of_others
from chargehand.memory.vectors import Vector
from chargehand.workers.reembedding import Reembedding
from chargehand.workers.tools.recall import BY_WORDS, RecalledText, recall_passages
from tests.integration.memory.test_reindexing import Model


class HeldByAnother(Redlock):
    """Locks that are free, but for one."""

    def __init__(self, name: str) -> None:
        self._name = name

    @contextmanager
    def held(self, name: str, *, wait_seconds: float = 0.0) -> Iterator[Lock]:
        if name == self._name:
            raise LockBusy("another worker has it")
        yield Lock(name=name, token="t", valid_until=0.0, acquired_in_seconds=0.0)


def remember_herons(engine: Engine, tenant: UUID, model: Model | None, count: int, *, scope: str = LIBRARY) -> None:
    items = [
        MemoryItem(source=f"{number}.md", line_start=1, line_end=1, text=f"Heron number{number} stands here.")
        for number in range(count)
    ]
    with tenant_session(engine, tenant) as session:
        remember(session, tenant=tenant, scope=scope, items=items, embedder=model)


def vectors(engine: Engine, tenant: UUID) -> dict[str, int]:
    with tenant_session(engine, tenant) as session:
        return {
            row.model_id: row.n
            for row in session.execute(text("SELECT model_id, count(*) AS n FROM embeddings GROUP BY 1"))
        }


def ask(engine: Engine, tenant: UUID, model: Model, query: str) -> RecalledText:
    with tenant_session(engine, tenant) as session:
        return recall_passages(session, tenant=tenant, scope=LIBRARY, query=query, embedder=model)


def test_a_worker_that_was_killed_is_followed_by_another_and_former_vectors_stay(engine: Engine, tenant: UUID) -> None:
    remember_herons(engine, tenant, Model("old-8", 8), 7)
    dying = Model("new-12", 12, breaks_after=4)
    first = Reembedding(engine, lambda: dying, None, batch=2)
    first.want(tenant)
    assert (first.embed_batch(), first.embed_batch()) == (True, True)
    with pytest.raises(ConnectionError):
        first.embed_batch()
    assert vectors(engine, tenant) == {"old-8": 7, "new-12": 4}
    assert count_of_others(engine, tenant=tenant, model_id="new-12") == 3

    new = Model("new-12", 12)
    second = Reembedding(engine, lambda: new, None, batch=2)
    second.want(tenant)
    while second.embed_batch():
        pass

    assert (new.embedded, vectors(engine, tenant)) == (3, {"old-8": 7, "new-12": 7})
    assert count_of_others(engine, tenant=tenant, model_id="new-12") == 0
    assert not ask(engine, tenant, new, "number3").by_words_only
    assert not ask(engine, tenant, Model("old-8", 8), "number3").by_words_only


def test_agents_are_answered_by_words_and_told_so_while_two_models_cannot_be_compared(
    engine: Engine, tenant: UUID
) -> None:
    remember_herons(engine, tenant, Model("old-8", 8), 3)

    found = ask(engine, tenant, Model("new-12", 12), "where is number2")
    nothing = ask(engine, tenant, Model("new-12", 12), "pelican")

    assert found.by_words_only
    assert found.text.startswith(f"{BY_WORDS}\n\n")
    assert "number2" in found.text
    assert "number1" not in found.text
    assert nothing.text == f"{BY_WORDS}\n\nNothing was found."


def test_what_was_remembered_by_words_only_is_left_and_loads_no_model(engine: Engine, tenant: UUID) -> None:
    remember_herons(engine, tenant, None, 3)
    new = Model("new-12", 12)
    working = Reembedding(engine, lambda: new, None)
    working.want(tenant)
    assert working.embed_batch() is False
    assert new.embedded == 0


def test_a_tenant_whose_lock_another_worker_holds_does_not_keep_the_others_waiting(
    engine: Engine, tenant: UUID
) -> None:
    other, new = uuid4(), Model("new-12", 12)
    for one in (tenant, other):
        remember_herons(engine, one, Model("old-8", 8), 1)
    working = Reembedding(engine, lambda: new, HeldByAnother(f"reembed:{tenant}:new-12"))
    working.want(tenant)
    working.want(other)

    with pytest.raises(LockBusy):
        working.embed_batch()

    assert working.embed_batch() is True
    assert (vectors(engine, tenant), vectors(engine, other)) == ({"old-8": 1}, {"old-8": 1, "new-12": 1})


def test_the_thread_goes_on_after_a_failure_and_ends_when_asked(engine: Engine, tenant: UUID) -> None:
    remember_herons(engine, tenant, Model("old-8", 8), 3)
    done = threading.Event()

    class Flaky(Model):
        def embed(self, texts: list[str]) -> list[Vector]:
            if not self.embedded:
                self.embedded += 1
                raise ConnectionError("away")
            done.set()
            return super().embed(texts)

    working = Reembedding(engine, lambda: flaky, None, pause_seconds=0.01, retry_seconds=0.01)
    flaky = Flaky("new-12", 12)
    working.start()
    working.want(tenant)
    assert done.wait(60)
    working.stop()
    working.join(60)
    assert vectors(engine, tenant) == {"old-8": 3, "new-12": 3}
