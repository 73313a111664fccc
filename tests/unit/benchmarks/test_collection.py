"""Collections in BEIR's and LoCoMo's formats, and what an order of texts is worth."""

import json
import math
import shutil
from pathlib import Path
from uuid import UUID

import pytest

from benchmarks.collection import beir, collections_in, locomo
from benchmarks.figures import NotMeasured
from benchmarks.memory import mean_ndcg, ndcg, reciprocal_ranks
from chargehand.memory.semantic import Candidates

A, B, C = (UUID(int=number) for number in (1, 2, 3))


TINY = Path(__file__).parents[2] / "data" / "collections"


def test_both_formats_are_found_below_the_folder_and_called_by_their_names(tmp_path: Path) -> None:
    shutil.copytree(TINY / "facts", tmp_path / "some" / "Sci-Fact")
    shutil.copy(TINY / "talk.json", tmp_path / "talk10.json")
    (tmp_path / "other.json").write_text("{}")

    assert [collection.name for collection in collections_in(tmp_path)] == ["sci_fact", "talk"]


def test_a_beir_document_is_found_by_its_title_and_only_judged_questions_are_asked() -> None:
    corpus = beir(TINY / "facts")

    assert [(key, item.source, item.line_start) for key, item in corpus.texts.items()] == [
        ("d1", "Yeast", 1),
        ("d2", "d2", 1),
        ("d3", "Yeast", 1),
    ]
    assert [(question.text, dict(question.grades)) for question in corpus.questions] == [
        ("Why does bread rise?", {"d1": 2})
    ]


def test_a_conversation_is_read_in_order_and_without_what_it_cannot_answer() -> None:
    corpus = locomo(json.loads((TINY / "talk.json").read_text())[0])

    assert [(key, item.source, item.line_start, item.text) for key, item in corpus.texts.items()] == [
        ("D1:1", "session 1", 1, "Ann: Which bird did you see at the lake?"),
        ("D1:2", "session 1", 2, "Bob: A heron. [a grey bird]"),
        ("D2:1", "9 May, 2023", 3, "Ann: See you!"),
    ]
    assert [dict(question.grades) for question in corpus.questions] == [{"D1:1": 1, "D1:2": 1}]


def test_a_folder_without_collections_is_refused_with_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match=r"corpus\.jsonl"):
        collections_in(tmp_path)
    with pytest.raises(NotMeasured, match="no folder"):
        collections_in(tmp_path / "away")


def test_two_collections_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        shutil.copytree(TINY / "facts", tmp_path / folder / "facts")
    with pytest.raises(NotMeasured, match="facts"):
        collections_in(tmp_path)


def test_the_gain_of_a_text_falls_with_its_rank_and_grows_with_its_grade() -> None:
    assert ndcg({A: 1}, [A, B]) == 1.0
    assert ndcg({A: 1}, [B, A]) == pytest.approx(1 / math.log2(3))
    assert ndcg({A: 2, B: 1}, [B, A]) == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    assert ndcg({A: 1}, [*(UUID(int=9 + number) for number in range(10)), A]) == 0.0
    assert ndcg({A: 1, C: 1}, [A]) < 1.0


def test_reciprocal_ranks_prefer_what_both_lists_hold() -> None:
    scored = Candidates(lexical={A: 9.0, B: 8.0, C: 0.0}, similarity={C: 0.9, B: 0.8}, neighbours=())
    assert reciprocal_ranks(scored)[0] == B
    assert mean_ndcg([], lambda one: one.found) == 0.0
