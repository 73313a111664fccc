"""A collection of texts with questions whose answers are known, as BEIR's folders and LoCoMo's JSON hold it."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import NotMeasured
from chargehand.memory.beliefs import MemoryItem

# LoCoMo's questions that have no answer in their conversation.
UNANSWERABLE = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is asked, and how well each text answers it; what is not named does not."""

    text: str
    grades: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Texts that are searched together, and the questions about them."""

    texts: Mapping[str, MemoryItem]
    questions: Sequence[Question]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """One or more corpora under one name; a figure is the mean over all their questions."""

    name: str
    corpora: Sequence[Corpus]


def collections_in(folder: Path) -> tuple[Collection, ...]:
    """Every collection in the folder and below it.

    Raises `NotMeasured` if there is none, or two of one name.
    """
    if not folder.is_dir():
        raise NotMeasured(f"There is no folder {folder}; give one with collections: make bench-memory DATA=folder.")
    found = [*_beir_folders(folder), *_locomo_files(folder)]
    names = [collection.name for collection in found]
    if not found:
        raise NotMeasured(
            f"{folder} holds no collection; put BEIR folders (corpus.jsonl, queries.jsonl, qrels/test.tsv) or LoCoMo's "
            "JSON there."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NotMeasured(f"{folder} holds two collections of the name {twice[0]}; rename one.")
    return tuple(found)


def _beir_folders(folder: Path) -> Iterator[Collection]:
    for corpus in sorted(folder.rglob("corpus.jsonl")):
        home = corpus.parent
        if (home / "queries.jsonl").is_file() and (home / "qrels" / "test.tsv").is_file():
            yield Collection(name=_name(home.resolve().name), corpora=(beir(home),))


def _locomo_files(folder: Path) -> Iterator[Collection]:
    for path in sorted(folder.rglob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(told, list) and told and all(isinstance(one, dict) and "conversation" in one for one in told):
            # The file is called after the number of its conversations: locomo10.json.
            name = _name(path.stem.rstrip("0123456789") or path.stem)
            yield Collection(name=name, corpora=tuple(locomo(one) for one in told))


def beir(folder: Path) -> Corpus:
    """The corpus, and the questions of `qrels/test.tsv`."""
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines, delimiter="\t")
        next(rows)
        for question, document, grade in rows:
            if int(grade) > 0:
                grades[question][document] = int(grade)
    return Corpus(
        texts={document["_id"]: _document(document) for document in _lines(folder / "corpus.jsonl")},
        questions=[
            Question(text=question["text"], grades=grades[question["_id"]])
            for question in _lines(folder / "queries.jsonl")
            if question["_id"] in grades
        ],
    )


def _document(document: Mapping[str, Any]) -> MemoryItem:
    title = _clean(document.get("title") or "")
    # All at line 1: documents that share a title do not follow each other.
    return MemoryItem(source=title or document["_id"], line_start=1, line_end=1, text=_clean(document["text"]) or title)


def locomo(told: Mapping[str, Any]) -> Corpus:
    """A conversation's turns, and the questions that some of them answer.

    A session is a source, called by its date; a turn is a line, counted through all sessions.
    """
    conversation = told["conversation"]
    sessions = sorted(
        (key for key in conversation if re.fullmatch(r"session_\d+", key)), key=lambda key: int(key.split("_")[1])
    )
    turns = [(_session(conversation, key), turn) for key in sessions for turn in conversation[key]]
    texts = {
        turn["dia_id"]: _turn(turn, source=source, line=line) for line, (source, turn) in enumerate(turns, start=1)
    }
    questions = [
        Question(text=asked["question"], grades=dict.fromkeys(_evidence(asked) & texts.keys(), 1))
        for asked in told["qa"]
        if asked.get("category") != UNANSWERABLE
    ]
    return Corpus(texts=texts, questions=[question for question in questions if question.grades])


def _session(conversation: Mapping[str, Any], key: str) -> str:
    date = _clean(conversation.get(f"{key}_date_time") or "")
    return date or key.replace("_", " ")


def _turn(turn: Mapping[str, Any], *, source: str, line: int) -> MemoryItem:
    caption = turn.get("blip_caption")
    said = f"{turn['speaker']}: {turn['text']}" + (f" [{caption}]" if caption else "")
    return MemoryItem(source=source, line_start=line, line_end=line, text=_clean(said), kind="turn")


def _evidence(asked: Mapping[str, Any]) -> set[str]:
    # Some entries name several turns: "D8:6; D9:17".
    return {turn for entry in asked.get("evidence") or () for turn in re.split(r"[;,\s]+", entry)}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _clean(said: str) -> str:
    return said.replace("\0", " ").strip()
