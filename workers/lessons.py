"""What a run taught, on its way to memory: the values that travel between the steps of a consolidation."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from chargehand.memory.beliefs import Trust
from chargehand.workers.findings import Frozen

Verdict = Literal["same", "contradicts", "different"]

# A fact is one sentence; what needs more is several.
MAX_FACT_CHARACTERS = 500
MAX_FACTS = 20


class Said(Frozen):
    """A statement as an extractor is shown it."""

    id: str
    text: str
    trust: Trust
    by: str
    kept: str = ""
    """What of it is kept word for word, whatever else is extracted."""


class Testimony(Frozen):
    """What was said in a run."""

    statements: tuple[Said, ...]


class ExtractedFact(Frozen):
    """One thing that is worth knowing in later runs."""

    text: str = Field(min_length=1, max_length=MAX_FACT_CHARACTERS)
    """One sentence that can be understood alone."""
    evidence: tuple[str, ...] = Field(min_length=1)
    """Ids of the statements that say so."""
    importance: float = Field(ge=0, le=1)
    """0: hardly worth keeping; 1: whoever does not know it does harm."""


class ExtractedFacts(Frozen):
    """What an extractor hands in."""

    facts: tuple[ExtractedFact, ...] = Field(max_length=MAX_FACTS)


class Proposed(Frozen):
    """What is to be believed, if nothing speaks against it."""

    id: str
    text: str
    kind: Literal["fact", "episode"]
    importance: float
    trust: Trust
    evidence: tuple[str, ...]
    step_id: UUID | None = None
    tool: str = ""
    role_version: str | None = None
    derived_from: tuple[UUID, ...] = ()
    rests_on: tuple[str, ...] = ()


class Pair(Frozen):
    """A proposed fact and a memory that is near it."""

    id: str
    newer: str
    older: str


class Proposals(Frozen):
    """What is to be believed."""

    proposed: tuple[Proposed, ...]


class Pairs(Frozen):
    """What has to be judged before."""

    pairs: tuple[Pair, ...]


class Judgement(Frozen):
    """What an arbiter says of one pair."""

    pair: str
    verdict: Verdict
    reason: str = Field(min_length=1)


class Judgements(Frozen):
    """What an arbiter hands in."""

    judgements: tuple[Judgement, ...]


class Refused(Frozen):
    """What is not believed, and why."""

    text: str
    why: str


class Believed(Frozen):
    """What came of a run's testimony."""

    kept: dict[UUID, str]
    """Memory → what it says."""
    superseded: dict[UUID, UUID]
    """Older memory → the one that stands in for it."""
    known: dict[UUID, str]
    """Memory that said so before → what is not kept for it."""
    refused: tuple[Refused, ...]
