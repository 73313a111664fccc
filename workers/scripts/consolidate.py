"""The scripts of a consolidation: what was said is gathered, paired with what is believed, and believed in its turn."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from pydantic import JsonValue, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from chargehand.memory.beliefs import (
    LIBRARY,
    AlreadySuperseded,
    MemoryItem,
    MemoryNotFound,
    Provenance,
    Trust,
    is_less_trusted,
    least,
    memory_id,
    remember,
    supersede,
)
from chargehand.memory.embedder import Embedder, Vector
from chargehand.memory.model_check import MixedModels
from chargehand.memory.semantic import candidates, nearest
from chargehand.memory.semantic_tables import Memory
from chargehand.orchestrator.consolidating import NONE, PAIRS
from chargehand.orchestrator.testimony import Statement, statements_of
from chargehand.workers.lessons import (
    Believed,
    ExtractedFacts,
    Judgements,
    Pair,
    Pairs,
    Proposals,
    Proposed,
    Refused,
    Said,
    Testimony,
    Verdict,
)
from chargehand.workers.scripts.registry import ScriptContext, script

log = logging.getLogger(__name__)

# Kinds of memories that a fact may agree with or contradict; a passage is evidence, not a belief.
KINDS = ("fact", "episode", "note")
# Memories that a fact is compared with, and how near one has to be. Nearness only says what is worth a look: a sentence
# and its negation have a cosine of .97, and what is decided is decided by who reads both.
NEIGHBOURS = 3
NEAR = 0.55
# Of what a person wants to hold from now on.
IMPORTANCE_OF_WORDS = 0.7


@script(name="gather_testimony")
def gather_testimony(context: ScriptContext, *, run: str) -> Testimony:
    """What was said in the run, and what of it is kept word for word."""
    with context.open_session() as session:
        said = statements_of(session, UUID(run))
    return Testimony(
        statements=tuple(Said(id=one.id, text=one.text, trust=one.trust, by=one.tool, kept=one.lasting) for one in said)
    )


@script(name="propose_facts")
def propose_facts(context: ScriptContext, *, run: str) -> Proposals:
    """What is to be believed, each with where it comes from; nothing when the run was erased meanwhile."""
    with context.open_session() as session:
        said = statements_of(session, UUID(run))
    return Proposals(proposed=propose(said, ExtractedFacts.model_validate(context.inputs["extract"])))


def propose(said: Sequence[Statement], extracted: ExtractedFacts) -> tuple[Proposed, ...]:
    """What people want kept, in their words, and what was extracted; the same words once. Pure.

    A fact is trusted as the least of the statements that it was extracted from; one that names no statement is dropped.
    """
    by_id = {one.id: one for one in said}
    drafts: list[tuple[str, Literal["fact", "episode"], float, list[Statement]]] = [
        (one.lasting, "episode", IMPORTANCE_OF_WORDS, [one]) for one in said if one.lasting
    ]
    drafts += [
        (fact.text, "fact", fact.importance, [by_id[one] for one in fact.evidence if one in by_id])
        for fact in extracted.facts
    ]
    proposed: dict[str, Proposed] = {}
    for text, kind, importance, evidence in drafts:
        words = " ".join(text.lower().split()).rstrip(".")
        if not evidence or not words or words in proposed:
            continue
        proposed[words] = Proposed(
            id=f"b{len(proposed) + 1}",
            text=text.strip(),
            kind=kind,
            importance=importance,
            trust=least(*(one.trust for one in evidence)),
            evidence=tuple(one.id for one in evidence),
            step_id=evidence[0].step_id,
            tool=evidence[0].tool,
            role_version=evidence[0].role_version,
            derived_from=tuple(sorted({memory for one in evidence for memory in one.memories})),
            rests_on=tuple(sorted({place for one in evidence for place in one.rests_on})),
        )
    return tuple(proposed.values())


@script(name="pair_facts")
def pair_facts(context: ScriptContext) -> Pairs:
    """Each proposed fact with the memories that are near it.

    While memories have vectors of two models, near is what shares its words: nearness decides nothing, and a
    consolidation does not wait for all to be embedded anew.
    """
    proposed = Proposals.model_validate(context.inputs["propose"]).proposed
    if not proposed:
        return Pairs(pairs=())
    embedder = context.embedder()
    vectors = embedder.embed([one.text for one in proposed])
    pairs: list[Pair] = []
    with context.open_session() as session:
        for one, vector in zip(proposed, vectors, strict=True):
            near = _near(session, context.tenant, one.text, vector, embedder)
            texts = _texts(session, context.tenant, list(near))
            pairs += [
                Pair(id=f"{one.id}:{memory}", newer=one.text, older=texts[memory])
                for memory in sorted(texts, key=lambda memory: (-near[memory], memory))
            ]
    return Pairs(pairs=tuple(pairs))


def _near(session: Session, tenant: UUID, fact: str, vector: Vector, embedder: Embedder) -> dict[UUID, float]:
    """The memories that are worth a look, with how near each is: by meaning, or by words where models are mixed."""
    try:
        found = nearest(
            session,
            tenant=tenant,
            scope=LIBRARY,
            vector=vector,
            embedder=embedder,
            kinds=KINDS,
            limit=NEIGHBOURS,
        )
    except MixedModels as mixed:
        log.info("compared by words", extra={"why": str(mixed)})
        by_words = candidates(
            session,
            tenant=tenant,
            scope=LIBRARY,
            question=fact,
            vector=None,
            embedder=None,
            kinds=KINDS,
            limit=NEIGHBOURS,
        ).lexical
        best = sorted(by_words, key=lambda memory: (-by_words[memory], memory))[:NEIGHBOURS]
        return {memory: by_words[memory] for memory in best if by_words[memory] > 0}
    return {memory: similarity for memory, similarity in found.items() if similarity >= NEAR}


@script(name="has_pairs")
def has_pairs(context: ScriptContext) -> str:
    """Whether anything has to be judged: without that no model is asked."""
    return PAIRS if Pairs.model_validate(context.inputs["pair"]).pairs else NONE


@script(name="believe_facts", effect="idempotent")
def believe_facts(context: ScriptContext, *, run: str) -> Believed:
    """Keep what is new, leave out what is known, and let what contradicts an older memory stand in for it.

    In one transaction. Nothing supersedes what is trusted more than itself; what says the same, and is trusted more,
    stands in for it too.
    """
    proposals = Proposals.model_validate(context.results("propose"))
    verdicts = read_verdicts(Pairs.model_validate(context.results("pair")), context.results("judge"))
    embedder = context.embedder()
    with context.open_session() as session:
        keeper = _Keeper(session=session, tenant=context.tenant, run_id=UUID(run), by=context.run_id, embedder=embedder)
        for one in proposals.proposed:
            keeper.keep(one, verdicts.get(one.id, {}))
        return keeper.outcome()


def read_verdicts(pairs: Pairs, judged: JsonValue) -> dict[str, dict[UUID, Verdict]]:
    """Proposal → older memory → what was judged; raises `ValueError` when a pair was not. Pure."""
    if not pairs.pairs:
        return {}
    try:
        judgements = Judgements.model_validate(judged).judgements
    except ValidationError as error:
        raise ValueError(f"The pairs were not judged, so nothing is believed: {error.errors()[0]['msg']}") from error
    verdict_of = {one.pair: one.verdict for one in judgements}
    found: dict[str, dict[UUID, Verdict]] = defaultdict(dict)
    for pair in pairs.pairs:
        if pair.id not in verdict_of:
            raise ValueError(f"Pair {pair.id} was not judged, so nothing is believed.")
        proposal, _, memory = pair.id.partition(":")
        found[proposal][UUID(memory)] = verdict_of[pair.id]
    return found


class _Keeper:
    """Writes proposals one by one; what becomes of one does not undo the others."""

    def __init__(self, *, session: Session, tenant: UUID, run_id: UUID, by: UUID, embedder: Embedder) -> None:
        self._session, self._tenant, self._run_id, self._by, self._embedder = session, tenant, run_id, by, embedder
        self._kept: dict[UUID, str] = {}
        self._superseded: dict[UUID, UUID] = {}
        self._known: dict[UUID, str] = {}
        self._refused: list[Refused] = []

    def outcome(self) -> Believed:
        return Believed(kept=self._kept, superseded=self._superseded, known=self._known, refused=tuple(self._refused))

    def keep(self, one: Proposed, verdicts: dict[UUID, Verdict]) -> None:
        item = MemoryItem(
            source=f"run:{self._run_id}",
            line_start=1,
            line_end=1,
            text=one.text,
            kind=one.kind,
            derived_from=one.derived_from,
            rests_on=one.rests_on,
            trust=one.trust,
            importance=one.importance,
            provenance=Provenance(
                run_id=self._run_id, step_id=one.step_id, tool=one.tool, role_version=one.role_version
            ),
            details={"consolidated_by": str(self._by), "evidence": list(one.evidence)},
        )
        own = memory_id(tenant=self._tenant, scope=LIBRARY, item=item)
        if _texts(self._session, self._tenant, [own]):
            # Before a crash; what has become of it since is not undone.
            self._kept[own] = one.text
            return
        older = _standing(self._session, self._tenant, list(verdicts))
        same = sorted(memory for memory in older if verdicts[memory] == "same")
        confirmed = [memory for memory in same if is_less_trusted(older[memory], one.trust)]
        if same and not confirmed:
            self._known[same[0]] = one.text
            return
        against = sorted([*(memory for memory in older if verdicts[memory] == "contradicts"), *confirmed])
        stronger = next((memory for memory in against if is_less_trusted(one.trust, older[memory])), None)
        if stronger is not None:
            why = f"it contradicts memory {stronger}, which is trusted more ({older[stronger]} against {one.trust})"
            self._refused.append(Refused(text=one.text, why=why))
            return
        savepoint = self._session.begin_nested()
        try:
            self._write(item, against)
        except (MemoryNotFound, AlreadySuperseded) as gone:
            savepoint.rollback()
            self._refused.append(Refused(text=one.text, why=str(gone)))
        else:
            savepoint.commit()
            self._kept[own] = one.text
            self._superseded |= dict.fromkeys(against, own)

    def _write(self, item: MemoryItem, against: Sequence[UUID]) -> None:
        if not against:
            remember(self._session, tenant=self._tenant, scope=LIBRARY, items=[item], embedder=self._embedder)
        for memory in against:
            supersede(
                self._session,
                tenant=self._tenant,
                scope=LIBRARY,
                memory_id=memory,
                item=item,
                embedder=self._embedder,
            )


def _texts(session: Session, tenant: UUID, memories: Sequence[UUID]) -> dict[UUID, str]:
    rows = session.execute(select(Memory.id, Memory.text).where(Memory.tenant == tenant, Memory.id.in_(memories)))
    return {row.id: row.text for row in rows}


def _standing(session: Session, tenant: UUID, memories: Sequence[UUID]) -> dict[UUID, Trust]:
    """Those that nothing has superseded meanwhile, and how far each is trusted."""
    rows = session.execute(
        select(Memory.id, Memory.trust).where(
            Memory.tenant == tenant, Memory.id.in_(memories), Memory.superseded_by.is_(None)
        )
    )
    trusted: dict[UUID, Trust] = {row.id: row.trust for row in rows}
    return trusted
