"""How well and how fast `recall` finds what answers a question, in every collection of a folder of the user's."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from uuid import UUID, uuid4

from benchmarks.collection import Collection, Corpus, Question, collections_in
from benchmarks.figures import Figure, NotMeasured, percentile
from benchmarks.ground import Ground
from benchmarks.kept_vectors import FILE, KeptVectors
from chargehand.memory.beliefs import remember
from chargehand.memory.database import tenant_session
from chargehand.memory.embedder import Embedder, Vector, load_embedder
from chargehand.memory.ranking import fuse, spread
from chargehand.memory.semantic import CANDIDATES, Candidates, candidates, recall
from chargehand.memory.vectors import question_vector

TARGETS = {"scifact": 0.74, "locomo": 0.50}
TARGET_INGEST = 100.0
# Of the texts' vectors; a collection says some things twice. With more it is no measure of how fast texts are embedded.
MOST_FOUND = 0.05
# Words a text on average, up to which the target holds: a turn of a conversation, a note.
SHORT_TEXT_WORDS = 40
# A transaction stays open while its texts are embedded.
BATCH = 32
DEPTH = 10
# As its authors have it (Cormack, Clarke and Büttcher 2009).
RRF_CONSTANT = 60
WEIGHTS = (0.3, 0.4, 0.45, 0.5, 0.6)
SHARES = (0.0, 0.1, 0.15, 0.2, 0.3)
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question after it was asked: the texts by their ids in memory, and what either ranking made of them."""

    grades: Mapping[UUID, int]
    found: Sequence[UUID]
    seconds: float
    scored: Candidates


@dataclass(kw_only=True, slots=True)
class Progress:
    """Says on stderr how far it is, now and then."""

    what: str
    total: int
    done: int = 0
    began_at: float = field(default_factory=time.monotonic)
    told_at: float = field(default_factory=time.monotonic)

    def add(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if now - self.told_at >= PROGRESS_SECONDS or self.done >= self.total:
            self.told_at = now
            rate = self.done / max(now - self.began_at, 1e-9)
            print(f"{self.what}: {self.done} of {self.total}, {rate:.0f} a second", file=sys.stderr, flush=True)


def measure(ground: Ground) -> Iterator[Figure]:
    """The figures of every collection in the folder that the variable DATA names."""
    folder = os.environ.get("DATA")
    if not folder:
        raise NotMeasured("The suite memory needs collections: make bench-memory DATA=folder.")
    file = None if os.environ.get("FRESH") else FILE
    yield from measure_all(ground, collections_in(Path(folder).expanduser()), load_embedder(), kept_in=file)


def measure_all(
    ground: Ground, found: Sequence[Collection], embedder: Embedder, *, kept_in: Path | None = None
) -> Iterator[Figure]:
    """Each collection for itself, then each with the settings that suit the others best.

    `kept_in`: a file of vectors that an earlier run has made. Questions are embedded in any case, and measured.
    """
    began = time.monotonic()
    asked: dict[str, list[Asked]] = {}
    for collection in found:
        asked[collection.name] = []
        yield from measure_one(ground, collection, embedder, asked[collection.name], kept_in=kept_in)
    if len(found) > 1:
        yield from leave_one_out(asked)
    yield Figure(name="memory_suite_seconds", value=time.monotonic() - began, unit="s")


def measure_one(
    ground: Ground, collection: Collection, embedder: Embedder, asked: list[Asked], *, kept_in: Path | None = None
) -> Iterator[Figure]:
    """Remember every text, ask every question; what was asked goes to `asked`, too."""
    name = collection.name
    texts = [item.text for corpus in collection.corpora for item in corpus.texts.values()]
    questions = sum(len(corpus.questions) for corpus in collection.corpora)
    if not questions:
        raise NotMeasured(f"The collection {name} has no question with a known answer.")
    # The model is read once, and not by the first text.
    embedder.embed(["warm"])
    keeping = Progress(what=f"memory {name}: texts kept", total=len(texts))
    asking = Progress(what=f"memory {name}: questions asked", total=questions)
    kept = KeptVectors(embedder, kept_in) if kept_in is not None else None
    ids = [
        _keep(ground, name, number, corpus, kept or embedder, keeping)
        for number, corpus in enumerate(collection.corpora)
    ]
    ingest = len(texts) / (time.monotonic() - keeping.began_at)
    words = sum(len(text.split()) for text in texts) / len(texts)
    if kept is not None:
        kept.close()
    if kept is not None and kept.found > MOST_FOUND * len(texts):
        said = f"{kept.found} of {len(texts)} vectors were kept in {kept_in}: ingest is not measured, FRESH=1 does"
        print(f"memory {name}: {said}", file=sys.stderr, flush=True)
    else:
        yield Figure(
            name=f"memory_ingest_texts_per_second_{name}",
            value=ingest,
            unit="1/s",
            target=TARGET_INGEST if words <= SHORT_TEXT_WORDS else None,
            better="higher",
        )
    asking.began_at = time.monotonic()
    for number, corpus in enumerate(collection.corpora):
        for question in corpus.questions:
            asked.append(_ask(ground, _scope(name, number), question, ids[number], embedder))
            asking.add(1)
    yield _ndcg_figure(f"ndcg_at_10_{name}", asked, lambda one: one.found, target=TARGETS.get(name))
    yield _ndcg_figure(f"ndcg_at_10_{name}_dense_alone", asked, lambda one: best(one.scored.similarity))
    yield _ndcg_figure(f"ndcg_at_10_{name}_bm25_alone", asked, lambda one: best(one.scored.lexical))
    yield _ndcg_figure(f"ndcg_at_10_{name}_rrf", asked, lambda one: reciprocal_ranks(one.scored))
    seconds = [one.seconds for one in asked]
    yield Figure(
        name=f"memory_queries_per_second_{name}", value=len(seconds) / sum(seconds), unit="1/s", better="higher"
    )
    for percent in (50, 95):
        yield Figure(name=f"memory_query_p{percent}_ms_{name}", value=percentile(seconds, percent) * 1000, unit="ms")


def leave_one_out(asked: Mapping[str, Sequence[Asked]]) -> Iterator[Figure]:
    """What each collection gets with the weight and the share that are best on the mean of all others."""
    grid = list(product(WEIGHTS, SHARES))
    scores = {name: [mean for weight in WEIGHTS for mean in _with_shares(of, weight)] for name, of in asked.items()}
    for name in asked:
        others = [scores[other] for other in asked if other != name]
        chosen = max(range(len(grid)), key=lambda place: sum(each[place] for each in others))
        weight, share = grid[chosen]
        print(f"memory {name}: the others choose weight {weight} and share {share}", file=sys.stderr, flush=True)
        yield Figure(
            name=f"ndcg_at_10_{name}_tuned_on_the_others",
            value=scores[name][chosen],
            unit="nDCG",
            better="higher",
            target=TARGETS.get(name),
        )
        yield Figure(name=f"ndcg_at_10_{name}_best_of_grid", value=max(scores[name]), unit="nDCG", better="higher")


def _with_shares(asked: Sequence[Asked], weight: float) -> list[float]:
    """What `recall` would get with this weight and each of the shares; fused once."""
    fused = [fuse(one.scored.lexical, one.scored.similarity, lexical_weight=weight) for one in asked]
    return [
        sum(
            ndcg(one.grades, [memory for memory, _ in spread(scores, one.scored.neighbours, share=share)[:DEPTH]])
            for one, scores in zip(asked, fused, strict=True)
        )
        / max(len(asked), 1)
        for share in SHARES
    ]


def best(scores: Mapping[UUID, float], depth: int = DEPTH) -> list[UUID]:
    """Highest first; what has no score is not found."""
    return sorted((memory for memory in scores if scores[memory] > 0), key=lambda memory: (-scores[memory], memory))[
        :depth
    ]


def reciprocal_ranks(scored: Candidates) -> list[UUID]:
    """Reciprocal rank fusion of both lists."""
    fused: dict[UUID, float] = {}
    for scores in (scored.lexical, scored.similarity):
        for rank, memory in enumerate(best(scores, CANDIDATES), start=1):
            fused[memory] = fused.get(memory, 0.0) + 1.0 / (RRF_CONSTANT + rank)
    return best(fused)


def ndcg(grades: Mapping[UUID, int], found: Sequence[UUID]) -> float:
    """Normalised discounted cumulative gain of the first ten, with the grade as the gain, as trec_eval has it."""
    gained = _discounted([grades.get(memory, 0) for memory in found[:DEPTH]])
    return gained / _discounted(sorted(grades.values(), reverse=True)[:DEPTH])


def mean_ndcg(asked: Sequence[Asked], order: Callable[[Asked], Sequence[UUID]]) -> float:
    """The mean over the questions."""
    return sum(ndcg(one.grades, order(one)) for one in asked) / max(len(asked), 1)


def _discounted(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def _ndcg_figure(
    name: str, asked: Sequence[Asked], order: Callable[[Asked], Sequence[UUID]], *, target: float | None = None
) -> Figure:
    return Figure(name=name, value=mean_ndcg(asked, order), unit="nDCG", target=target, better="higher")


def _scope(name: str, number: int) -> str:
    return f"{name}:{number}"


def _keep(
    ground: Ground, name: str, number: int, corpus: Corpus, embedder: Embedder, progress: Progress
) -> dict[str, UUID]:
    ids: dict[str, UUID] = {}
    texts = list(corpus.texts.items())
    for start in range(0, len(texts), BATCH):
        some = texts[start : start + BATCH]
        with tenant_session(ground.application, ground.tenant) as session:
            kept = remember(
                session,
                tenant=ground.tenant,
                scope=_scope(name, number),
                items=[item for _, item in some],
                embedder=embedder,
            )
        ids.update(zip((key for key, _ in some), kept, strict=True))
        progress.add(len(some))
    return ids


class _Asking:
    """Embeds one question for its search, and gives the same vector to who looks at the candidates."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, Vector] = {}

    @property
    def model_id(self) -> str:
        return self._embedder.model_id

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        return [self.embed_question(one) for one in texts]

    def embed_question(self, question: str) -> Vector:
        if question not in self._vectors:
            self._vectors[question] = question_vector(self._embedder, question)
        return self._vectors[question]


def _ask(ground: Ground, scope: str, question: Question, ids: Mapping[str, UUID], embedder: Embedder) -> Asked:
    asking = _Asking(embedder)
    started = time.perf_counter()
    with tenant_session(ground.application, ground.tenant) as session:
        found = recall(session, tenant=ground.tenant, scope=scope, query=question.text, embedder=asking, limit=DEPTH)
    seconds = time.perf_counter() - started
    with tenant_session(ground.application, ground.tenant) as session:
        scored = candidates(
            session,
            tenant=ground.tenant,
            scope=scope,
            question=question.text,
            vector=question_vector(asking, question.text),
            embedder=embedder,
            kinds=None,
            limit=CANDIDATES,
        )
    return Asked(
        # A text that is there twice is one memory; what is not there at all is never found, and counts.
        grades={ids.get(key, uuid4()): grade for key, grade in question.grades.items()},
        found=[memory.memory_id for memory in found],
        seconds=seconds,
        scored=scored,
    )
