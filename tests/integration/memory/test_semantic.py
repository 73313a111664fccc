"""Semantic memory on a real Postgres with pgvector, under row-level security."""

import runpy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from chargehand.memory import semantic
from chargehand.memory.beliefs import AlreadySuperseded, MemoryItem, MemoryNotFound, remember, supersede
from chargehand.memory.database import bind_tenant, tenant_session
from chargehand.memory.embedder import Embedder, Vector
from chargehand.memory.forgetting import forget_scope, forget_source
from chargehand.memory.semantic import Candidates, candidates, nearest, recall
from chargehand.orchestrator.schema import MIGRATIONS

OpenSession = Callable[[], AbstractContextManager[Session]]

LABELS = MemoryItem(
    source="desk/labels.py",
    line_start=10,
    line_end=14,
    text='def renderLabel(parcel):\n    """SVG of the label."""\n    return TEMPLATE.format(parcel.id)',
)
PASSWORDS = MemoryItem(
    source="desk/accounts.py",
    line_start=3,
    line_end=6,
    text="def check_password(user, password):\n    return md5(password.encode()).hexdigest() == user.digest",
)
RATES = MemoryItem(
    source="docs/rates.md", line_start=1, line_end=2, text="# Rates\nA letter of up to 50 g costs one euro."
)
ITEMS = [LABELS, PASSWORDS, RATES]


class CountingEmbedder:
    """A deterministic embedder that counts what it was asked."""

    model_id = "minilm-l6-v2-int8"
    dimensions = 384

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, texts: list[str]) -> list[Vector]:
        self.embedded += len(texts)
        return [unit(hash_seed(text)) for text in texts]


def hash_seed(text: str) -> int:
    return sum(ord(character) * (index + 1) for index, character in enumerate(text))


def unit(seed: int) -> Vector:
    vector = np.random.default_rng(seed).normal(size=384).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def note(text: str, *, source: str = "agent", derived_from: tuple[UUID, ...] = ()) -> MemoryItem:
    return MemoryItem(source=source, line_start=1, line_end=1, text=text, kind="note", derived_from=derived_from)


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("Where is a parcel's label rendered?", "desk/labels.py"),
        ("How are passwords checked?", "desk/accounts.py"),
        ("What does sending a letter cost?", "docs/rates.md"),
    ],
)
def test_a_question_finds_the_passage_that_answers_it(
    open_session: OpenSession, tenant: UUID, embedder: Embedder, question: str, source: str
) -> None:
    with open_session() as session:
        remember(session, tenant=tenant, scope="run:1", items=ITEMS, embedder=embedder)

    with open_session() as session:
        found = recall(session, tenant=tenant, scope="run:1", query=question, embedder=embedder, limit=2)

    assert found[0].source == source
    assert found[0].similarity is not None
    assert found[0].score >= found[1].score


def test_remembering_twice_neither_embeds_nor_writes_again(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        first = remember(session, tenant=tenant, scope="run:1", items=ITEMS, embedder=embedder)
    with open_session() as session:
        second = remember(session, tenant=tenant, scope="run:1", items=[*ITEMS, ITEMS[0]], embedder=embedder)
        rows = session.scalar(text("SELECT count(*) FROM memories"))

    assert second == (*first, first[0])
    assert rows == len(ITEMS) == embedder.embedded


def test_a_writer_that_lost_its_lease_leaves_nothing(open_session: OpenSession, tenant: UUID) -> None:
    def refuse(session: Session) -> None:
        raise PermissionError("lease lost")

    with pytest.raises(PermissionError), open_session() as session:
        remember(session, tenant=tenant, scope="run:1", items=ITEMS, embedder=CountingEmbedder(), guard=refuse)

    with open_session() as session:
        assert session.scalar(text("SELECT count(*) FROM memories")) == 0


def test_a_tenant_finds_nothing_of_another(engine: Engine, open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        remember(session, tenant=tenant, scope="library", items=ITEMS, embedder=embedder)

    with tenant_session(engine, uuid4()) as session:
        assert recall(session, tenant=tenant, scope="library", query="password", embedder=embedder) == ()
        assert forget_source(session, tenant=tenant, source=LABELS.source) == ()
    with Session(engine) as session:
        unbound = session.execute(text("SELECT * FROM lexical_recall('password', 'library', NULL, 9)")).all()
    assert unbound == []


def test_another_scope_and_another_kind_are_not_recalled(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        remember(session, tenant=tenant, scope="run:1", items=ITEMS, embedder=embedder)
        remember(session, tenant=tenant, scope="run:1", items=[note("password is md5")], embedder=embedder)
        remember(session, tenant=tenant, scope="run:2", items=[note("password is bcrypt")], embedder=embedder)

        notes = recall(
            session, tenant=tenant, scope="run:1", query="password", embedder=embedder, kinds=["note"], limit=9
        )

    assert [found.text for found in notes] == ["password is md5"]


def test_rare_words_weigh_more_than_frequent_ones(open_session: OpenSession, tenant: UUID) -> None:
    items = [note(f"parcel number {index}") for index in range(20)]
    rare = note("parcel customs declaration")
    with open_session() as session:
        remember(session, tenant=tenant, scope="s", items=[*items, rare], embedder=CountingEmbedder())
        rows = session.execute(text("SELECT * FROM lexical_recall('customs parcel 3', 's', NULL, 9)")).all()
        common = session.execute(text("SELECT * FROM lexical_recall('parcel', 's', NULL, 9)")).all()

    assert len(rows) == 2  # "parcel" is in all of them and says nothing beside the others
    assert all(row.score > 2.0 for row in rows)
    assert len(common) == 9  # but alone it is all there is to go by


def lines(*texts: str, source: str = "talk", first: int = 1, kind: str = "turn") -> list[MemoryItem]:
    return [
        MemoryItem(source=source, line_start=line, line_end=line, text=said, kind=kind)
        for line, said in enumerate(texts, start=first)
    ]


def asked(session: Session, tenant: UUID, question: str, *, limit: int, kinds: list[str] | None = None) -> Candidates:
    embedder = CountingEmbedder()
    return candidates(
        session,
        tenant=tenant,
        scope="s",
        question=question,
        vector=embedder.embed([question])[0],
        embedder=embedder,
        kinds=kinds,
        limit=limit,
    )


def test_every_candidate_has_both_scores_whichever_ranking_brought_it(open_session: OpenSession, tenant: UUID) -> None:
    items = [note(f"heron number {index} by the lake", source=f"s{index}") for index in range(30)]
    items += [note(f"a stone {index}", source=f"t{index}") for index in range(60)]
    embedder = CountingEmbedder()
    with open_session() as session:
        ids = remember(session, tenant=tenant, scope="s", items=items, embedder=embedder)

    with open_session() as session:
        few = asked(session, tenant, "heron lake 7", limit=5)
        all_words = dict(
            session.execute(text("SELECT memory, score FROM lexical_recall('heron lake 7', 's', NULL, 99)")).all()
        )
        by_meaning = nearest(
            session,
            tenant=tenant,
            scope="s",
            vector=embedder.embed(["heron lake 7"])[0],
            embedder=embedder,
            kinds=None,
            limit=99,
        )

    assert 5 < len(few.lexical) <= 10
    assert few.lexical == pytest.approx({memory: all_words.get(memory, 0.0) for memory in few.lexical})
    assert few.similarity == pytest.approx({memory: by_meaning[memory] for memory in few.lexical}, abs=1e-6)
    assert ids[7] in few.lexical


def test_a_passages_neighbours_are_those_of_its_source_scope_and_kind(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        talk = remember(
            session,
            tenant=tenant,
            scope="s",
            items=lines("hello there", "which bird was it", "a heron", "good night"),
            embedder=embedder,
        )
        for scope, others in (
            ("s", lines("an aside", first=2, kind="note")),
            ("s", lines("elsewhere", source="other", first=3)),
            ("t", lines("of another scope", first=3)),
        ):
            remember(session, tenant=tenant, scope=scope, items=others, embedder=embedder)
        supersede(
            session,
            tenant=tenant,
            scope="s",
            memory_id=talk[0],
            item=lines("elsewhere said", source="third")[0],
            embedder=embedder,
        )

    with open_session() as session:
        found = asked(session, tenant, "bird", limit=1, kinds=["turn"])

    assert (talk[1], talk[2]) in found.neighbours
    assert not {talk[0]} & {memory for pair in found.neighbours for memory in pair}
    assert set(found.neighbours) <= {(talk[1], talk[2]), (talk[2], talk[3])}


def test_a_reply_is_found_by_the_turn_before_it(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    talk = lines("Ann: Which bird did you see at the lake?", "Bob: A grey one.", "Ann: Good night.", source="a")
    alone = [note(f"Nothing of it, {index}.", source=f"n{index}") for index in range(40)]
    with open_session() as session:
        ids = remember(session, tenant=tenant, scope="s", items=[*talk, *alone], embedder=embedder)

        found = recall(
            session,
            tenant=tenant,
            scope="s",
            query="Which bird was at the lake?",
            embedder=embedder,
            limit=2,
            lexical_weight=1.0,
        )

    assert [memory.memory_id for memory in found] == list(ids[:2])
    assert found[1].lexical_score == 0.0


@pytest.mark.parametrize(
    "query", ["", "   ", "'; DROP TABLE memories; --", "!!! & | <-> :*", "\0", "the of and", "ü" * 9000]
)
def test_any_text_is_a_question(open_session: OpenSession, tenant: UUID, query: str) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        remember(session, tenant=tenant, scope="run:1", items=ITEMS, embedder=embedder)
        found = recall(session, tenant=tenant, scope="run:1", query=query, embedder=embedder)

    assert len(found) in (0, len(ITEMS))


def test_words_that_stand_together_as_in_the_question_score_more_than_the_same_words_apart(
    open_session: OpenSession, tenant: UUID
) -> None:
    said = {
        "together": "The heron lake is cold, and nobody swims or rows or sails there.",
        "apart": "The heron is cold, and nobody swims or rows or sails there on the lake.",
        **{f"other {number}": f"Parcel {number} waits." for number in range(4)},
    }
    items = [MemoryItem(source=f"{name}.md", line_start=1, line_end=1, text=text) for name, text in said.items()]
    with open_session() as session:
        ids = remember(session, tenant=tenant, scope="s", items=items, embedder=None)
        scores = dict(
            session.execute(text("SELECT memory, score FROM lexical_recall('heron lakes', 's', NULL, 9)")).all()
        )
        turned = dict(
            session.execute(text("SELECT memory, score FROM lexical_recall('lake heron', 's', NULL, 9)")).all()
        )
        far = dict(
            session.execute(text("SELECT memory, score FROM lexical_recall('heron parcel lake', 's', NULL, 9)")).all()
        )
    assert scores[ids[0]] > 1.3 * scores[ids[1]] > 0
    assert turned == pytest.approx(scores)
    # What is not side by side in the question is not looked for side by side.
    assert far[ids[0]] == pytest.approx(far[ids[1]], rel=0.05)


def test_unpacking_only_the_words_that_were_asked_changes_no_score(
    owner: Engine, open_session: OpenSession, tenant: UUID
) -> None:
    words = [f"w{number}" for number in range(40)]
    some = np.random.default_rng(5)
    passages = [note(" ".join(some.choice(words, size=30)), source=f"{number}.md") for number in range(30)]
    with open_session() as session:
        remember(session, tenant=tenant, scope="run:1", items=passages, embedder=None)
    revision = runpy.run_path(str(MIGRATIONS / "versions" / "0023_words_that_were_asked.py"))
    with Session(owner) as session:
        bind_tenant(session, tenant)
        session.connection().exec_driver_sql(
            revision["_function"](revision["FORMER_LEXICAL_RECALL"], "former_recall", revision["NOW"])
        )
        for question in ("w1 w2 w3", "w7 w7 w8 absent", "w3 w30 w12 w9 w3", "absent", ""):
            former, now = (
                {
                    row.memory: float(row.score)
                    for row in session.execute(
                        text(f"SELECT * FROM chargehand.{name}(:question, 'run:1', NULL, 20)"), {"question": question}
                    )
                }
                for name in ("former_recall", "lexical_recall")
            )
            assert now == pytest.approx(former)
            assert bool(now) is question.startswith("w")
        session.rollback()


def test_lexical_recall_uses_its_index_for_the_applications_role(
    owner: Engine, open_session: OpenSession, tenant: UUID
) -> None:
    with open_session() as session:
        session.execute(
            text(
                "INSERT INTO memories (tenant, id, scope, source, line_start, line_end, kind, text, words) "
                "SELECT :tenant, gen_random_uuid(), 's', 'f' || i, 1, 1, 'note', 'word' || i || repeat(' etc', 50), 51"
                " FROM generate_series(1, 4000) i"
            ),
            {"tenant": tenant},
        )
    with owner.begin() as connection:
        connection.execute(text("ANALYZE memories"))

    with open_session() as session:
        found = session.execute(text("SELECT * FROM lexical_recall('word77', 's', NULL, 9)")).all()
        scans = session.scalar(
            text(
                "SELECT sum(pg_stat_get_xact_numscans(c.oid)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
                "WHERE a.amname = 'gin' AND c.relname LIKE 'memories%tsv%'"
            )
        )

    assert len(found) == 1
    assert scans > 0


def test_a_large_scope_is_searched_by_hnsw_and_agrees_with_the_exact_answer(
    open_session: OpenSession, tenant: UUID
) -> None:
    embedder = CountingEmbedder()
    items = [note(f"fact {index}") for index in range(400)]
    with open_session() as session:
        for start in range(0, len(items), 100):
            remember(session, tenant=tenant, scope="s", items=items[start : start + 100], embedder=embedder)
    question = unit(7)

    with open_session() as session:
        exact = nearest(session, tenant=tenant, scope="s", vector=question, embedder=embedder, kinds=None, limit=10)
        session.execute(text("SET LOCAL enable_sort = off"))
        approximate = nearest(
            session,
            tenant=tenant,
            scope="s",
            vector=question,
            embedder=embedder,
            kinds=None,
            limit=10,
            exact_up_to=100,
        )
        scans = session.scalar(
            text(
                "SELECT sum(pg_stat_get_xact_numscans(c.oid)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
                "WHERE a.amname = 'hnsw'"
            )
        )

    assert scans > 0
    assert len(exact.keys() & approximate.keys()) >= 9


def test_a_rare_kind_is_found_by_hnsw_although_all_that_is_near_is_of_another(
    open_session: OpenSession, tenant: UUID
) -> None:
    embedder = CountingEmbedder()
    items = [note(f"fact {index}") for index in range(200)]
    rare = [replace(note(f"turn {index}"), kind="turn") for index in range(3)]
    with open_session() as session:
        remember(session, tenant=tenant, scope="s", items=items, embedder=embedder)
        wanted = remember(session, tenant=tenant, scope="s", items=rare, embedder=embedder)
    with open_session() as session:
        session.execute(text("SET LOCAL enable_sort = off"))
        found = nearest(
            session,
            tenant=tenant,
            scope="s",
            vector=unit(7),
            embedder=embedder,
            kinds=["turn"],
            limit=3,
            exact_up_to=0,
        )
    assert found.keys() == set(wanted)


def test_a_superseded_memory_is_kept_and_not_recalled(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    old, new = note("The limit is 10."), note("The limit is 20.")
    with open_session() as session:
        (old_id,) = remember(session, tenant=tenant, scope="s", items=[old], embedder=embedder)
        new_id = supersede(session, tenant=tenant, scope="s", memory_id=old_id, item=new, embedder=embedder)

        found = recall(session, tenant=tenant, scope="s", query="limit", embedder=embedder)
        rows = session.scalar(text("SELECT count(*) FROM memories"))

    assert [memory.memory_id for memory in found] == [new_id]
    assert rows == 2


def test_the_second_to_supersede_is_told(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        (old_id,) = remember(session, tenant=tenant, scope="s", items=[note("The limit is 10.")], embedder=embedder)
        supersede(session, tenant=tenant, scope="s", memory_id=old_id, item=note("It is 20."), embedder=embedder)

    with pytest.raises(AlreadySuperseded, match=str(old_id)), open_session() as session:
        supersede(session, tenant=tenant, scope="s", memory_id=old_id, item=note("It is 30."), embedder=embedder)
    with pytest.raises(MemoryNotFound), open_session() as session:
        supersede(session, tenant=tenant, scope="s", memory_id=uuid4(), item=note("It is 40."), embedder=embedder)


def test_an_old_fact_can_become_true_again(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    first, second = note("The limit is 10."), note("The limit is 20.")
    with open_session() as session:
        (first_id,) = remember(session, tenant=tenant, scope="s", items=[first], embedder=embedder)
        second_id = supersede(session, tenant=tenant, scope="s", memory_id=first_id, item=second, embedder=embedder)
        supersede(session, tenant=tenant, scope="s", memory_id=second_id, item=first, embedder=embedder)

        found = recall(session, tenant=tenant, scope="s", query="limit", embedder=embedder)

    assert [memory.memory_id for memory in found] == [first_id]


def test_everything_derived_from_a_poisoned_source_goes_and_what_it_replaced_returns(
    open_session: OpenSession, tenant: UUID
) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        good, poison = remember(
            session, tenant=tenant, scope="s", items=[note("good"), note("lie", source="evil.md")], embedder=embedder
        )
        (child,) = remember(
            session, tenant=tenant, scope="s", items=[note("so", derived_from=(good, poison))], embedder=embedder
        )
        grandchild = supersede(
            session,
            tenant=tenant,
            scope="s",
            memory_id=good,
            item=note("worse", derived_from=(child,)),
            embedder=embedder,
        )

    with open_session() as session:
        gone = forget_source(session, tenant=tenant, source="evil.md")

    assert set(gone) == {poison, child, grandchild}
    with open_session() as session:
        found = recall(session, tenant=tenant, scope="s", query="good", embedder=embedder)
        assert [memory.memory_id for memory in found] == [good]
        assert session.scalar(text("SELECT count(*) FROM embeddings")) == 1


def test_a_scope_is_forgotten_whole(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    with open_session() as session:
        remember(session, tenant=tenant, scope="run:1", items=ITEMS, embedder=embedder)
        remember(session, tenant=tenant, scope="run:2", items=ITEMS[:1], embedder=embedder)
        assert forget_scope(session, tenant=tenant, scope="run:1") == len(ITEMS)
        assert session.scalar(text("SELECT count(*) FROM memories")) == 1


def test_an_embedder_with_a_name_that_sql_could_misread_is_refused(open_session: OpenSession, tenant: UUID) -> None:
    embedder = CountingEmbedder()
    embedder.model_id = "x' OR true --"
    with open_session() as session, pytest.raises(ValueError, match="model id"):
        recall(session, tenant=tenant, scope="s", query="x", embedder=embedder)


def test_every_partition_is_indexed_for_the_model(engine: Engine) -> None:
    with Session(engine) as session:
        count = session.scalar(
            text(
                "SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
                "WHERE a.amname = 'hnsw' AND c.relkind = 'i'"
            )
        )
    assert count == 16
    assert semantic.EXACT_UP_TO > 0
