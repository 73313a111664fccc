"""A change of the embedding model on a real Postgres: refused searches, new vectors, and an index of its own."""

import hashlib
from uuid import UUID

import numpy as np
import psycopg
import pytest
from sqlalchemy import Engine, text

from chargehand.memory.beliefs import MemoryItem, remember
from chargehand.memory.database import tenant_session
from chargehand.memory.embedder import MODEL_ID, Vector
from chargehand.memory.model_check import MixedModels
from chargehand.memory.reindexing import Reindexed, reindex
from chargehand.memory.semantic import nearest, recall
from chargehand.memory.vector_indexes import drop_index, has_index, index_name, make_index

SCOPE = "library"


class Model:
    """Vectors that follow from the text and the model's name; stops after `breaks_after` texts."""

    def __init__(self, model_id: str, dimensions: int, *, breaks_after: int | None = None) -> None:
        self.model_id = model_id
        self.dimensions = dimensions
        self.breaks_after = breaks_after
        self.embedded = 0

    def embed(self, texts: list[str]) -> list[Vector]:
        if self.breaks_after is not None and self.embedded + len(texts) > self.breaks_after:
            raise ConnectionError("the process died here")
        self.embedded += len(texts)
        return [self.vector(said) for said in texts]

    def vector(self, said: str) -> Vector:
        seed = int.from_bytes(hashlib.sha256(f"{self.model_id} {said}".encode()).digest()[:8])
        made = np.random.default_rng(seed).normal(size=self.dimensions)
        return (made / np.linalg.norm(made)).astype(np.float32)


def items(count: int) -> list[MemoryItem]:
    return [
        MemoryItem(source=f"notes/{number}.md", line_start=1, line_end=1, text=f"Heron number {number} stands here.")
        for number in range(count)
    ]


def models_of(engine: Engine, tenant: UUID) -> dict[str, int]:
    with tenant_session(engine, tenant) as session:
        rows = session.execute(text("SELECT model_id, count(*) AS n FROM embeddings GROUP BY model_id"))
        return {row.model_id: row.n for row in rows}


def remember_all(engine: Engine, tenant: UUID, model: Model | None, count: int) -> None:
    with tenant_session(engine, tenant) as session:
        remember(session, tenant=tenant, scope=SCOPE, items=items(count), embedder=model)


def ask(engine: Engine, tenant: UUID, model: Model) -> list[str]:
    with tenant_session(engine, tenant) as session:
        found = recall(session, tenant=tenant, scope=SCOPE, query="heron number 3", embedder=model, limit=3)
    return [memory.source for memory in found]


def test_a_search_over_two_models_is_refused_until_all_is_embedded_again(engine: Engine, tenant: UUID) -> None:
    old, new = Model(MODEL_ID, 384), Model("other-12", 12)
    remember_all(engine, tenant, old, 7)
    with pytest.raises(MixedModels, match=rf"7 of the 7 vectors of 'library' are of {MODEL_ID} and not of other-12"):
        ask(engine, tenant, new)
    with pytest.raises(ConnectionError):
        reindex(engine, tenant=tenant, embedder=Model("other-12", 12, breaks_after=4), batch=2)
    assert models_of(engine, tenant) == {MODEL_ID: 7, "other-12": 4}
    with pytest.raises(MixedModels, match="3 of the 7 vectors"):
        ask(engine, tenant, new)
    # Whoever still has the former model finds what it found, also while the other is at work.
    assert ask(engine, tenant, old)[0] == "notes/3.md"
    heard: list[Reindexed] = []
    asked = new.embedded
    done = reindex(engine, tenant=tenant, embedder=new, batch=2, told=heard.append)
    assert (done.total, done.embedded, done.dropped) == (3, 3, 7)
    assert new.embedded - asked == 3
    assert [one.embedded for one in heard] == [2, 3, 3]
    assert models_of(engine, tenant) == {"other-12": 7}
    assert ask(engine, tenant, new)[0] == "notes/3.md"
    with pytest.raises(MixedModels, match="ask with other-12"):
        ask(engine, tenant, old)


def test_the_nearest_of_another_model_are_refused_too(engine: Engine, tenant: UUID) -> None:
    remember_all(engine, tenant, Model(MODEL_ID, 384), 1)
    new = Model("other-12", 12)
    with tenant_session(engine, tenant) as session, pytest.raises(MixedModels):
        nearest(session, tenant=tenant, scope=SCOPE, vector=new.vector("x"), embedder=new, kinds=None, limit=1)


def test_what_was_remembered_by_its_words_only_is_no_other_model_and_gets_a_vector(
    engine: Engine, tenant: UUID
) -> None:
    new = Model("other-12", 12)
    remember_all(engine, tenant, None, 4)
    assert ask(engine, tenant, new)[0] == "notes/3.md"
    assert reindex(engine, tenant=tenant, embedder=new).embedded == 4
    assert reindex(engine, tenant=tenant, embedder=new) == Reindexed(total=0, embedded=0)


def test_the_vectors_of_the_former_model_stay_if_they_are_to(engine: Engine, tenant: UUID) -> None:
    old, new = Model(MODEL_ID, 384), Model("other-12", 12)
    remember_all(engine, tenant, old, 3)
    assert reindex(engine, tenant=tenant, embedder=new, keep_others=True).dropped == 0
    assert models_of(engine, tenant) == {MODEL_ID: 3, "other-12": 3}
    assert ask(engine, tenant, old)
    assert ask(engine, tenant, new)


def test_another_tenants_memories_are_not_embedded(engine: Engine, tenant: UUID) -> None:
    stranger = UUID(int=tenant.int ^ 1)
    remember_all(engine, stranger, Model(MODEL_ID, 384), 2)
    assert reindex(engine, tenant=tenant, embedder=Model("other-12", 12)).total == 0
    assert models_of(engine, stranger) == {MODEL_ID: 2}


def test_a_model_of_another_length_gets_an_index_that_its_searches_walk(
    database_url: str, engine: Engine, owner: Engine, tenant: UUID
) -> None:
    new = Model("other-12", 12)
    remember_all(engine, tenant, new, 40)
    heard: list[int] = []
    try:
        assert make_index(database_url, model_id="other-12", dimensions=12, told=lambda done, of: heard.append(done))
        assert heard == list(range(1, 17))
        assert not make_index(database_url, model_id="other-12", dimensions=12)
        with psycopg.connect(database_url) as connection:
            assert has_index(connection, "other-12")
            assert not has_index(connection, "another")
        with tenant_session(engine, tenant) as session:
            near = nearest(
                session,
                tenant=tenant,
                scope=SCOPE,
                vector=new.vector("x"),
                embedder=new,
                kinds=None,
                limit=5,
                exact_up_to=0,
            )
            session.execute(text("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off"))
            plan = session.execute(
                text(
                    "EXPLAIN SELECT memory FROM embeddings e WHERE e.tenant = :tenant AND e.model_id = 'other-12' "
                    f"ORDER BY e.vector::halfvec(12) <=> '{new.vector('x').tolist()}'::halfvec(12) LIMIT 5"
                ),
                {"tenant": tenant},
            )
            assert index_name("other-12") in "\n".join(row[0] for row in plan)
        assert len(near) == 5
    finally:
        drop_index(database_url, model_id="other-12")


def test_a_half_built_index_is_built_again(database_url: str) -> None:
    broken = f"{index_name('broken-3')}_p05"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE INDEX {broken} ON chargehand.embeddings_p05 USING hnsw ((vector::public.halfvec(3)) "
            "public.halfvec_cosine_ops) WITH (m = 16, ef_construction = 64) WHERE model_id = 'broken-3'"
        )
        connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (f"chargehand.{broken}",)
        )
    try:
        assert make_index(database_url, model_id="broken-3", dimensions=3)
        with psycopg.connect(database_url) as connection:
            assert has_index(connection, "broken-3")
    finally:
        drop_index(database_url, model_id="broken-3")


def test_a_length_that_no_index_takes_is_refused(database_url: str) -> None:
    with pytest.raises(ValueError, match="4001 numbers has no index"):
        make_index(database_url, model_id="long-one", dimensions=4001)
    with pytest.raises(ValueError, match="letters"):
        make_index(database_url, model_id="a'b", dimensions=3)
