"""A whole story judged a few thousand steps at a time, by processes of their own: memory does not grow with its length.

Each part is some of the runs with everything that was seen of them; what belongs to no run or to all of them (chains of
tenants, nameless calls, leftovers) is judged once. The time that it takes is linear in the size of the story.
"""

import multiprocessing
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

from chaos.case import Case
from chaos.checker import RULES_OF_RUNS, RULES_OF_THE_WHOLE, judge
from chaos.evidence import DRAIN_SECONDS, Strike, gather, gather_whole, sizes_of_runs
from chaos.ledger import Ledger
from chaos.recovery import Gap, gaps

# About half a gigabyte of rows and what is read out of them.
STEPS_A_PART = 5_000
JUDGES = 2
# Of a story that has gone wrong, nobody reads more; that there are more is said.
MOST_OBJECTIONS_A_PART = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """Where the evidence is, and what it is measured by; a process of its own can be told it."""

    database_url: str
    ledger: Path
    audit_key: bytes
    lease_seconds: float
    max_crashes: int
    places: int
    """Of one pool."""


@dataclass(kw_only=True, slots=True)
class Findings:
    """What was found in some runs; those of several parts add up."""

    objections: list[str] = field(default_factory=list)
    runs: set[UUID] = field(default_factory=set)
    outcomes: Tally[str] = field(default_factory=Tally)
    calls: Tally[str] = field(default_factory=Tally)
    gaps: list[Gap] = field(default_factory=list)
    steps: int = 0
    claims: int = 0
    knocks: int = 0
    effects: int = 0

    def add(self, other: "Findings") -> None:
        """These, too."""
        self.objections += other.objections
        self.runs |= other.runs
        self.outcomes += other.outcomes
        self.calls += other.calls
        self.gaps += other.gaps
        self.steps += other.steps
        self.claims += other.claims
        self.knocks += other.knocks
        self.effects += other.effects


def hear(
    witness: Witness,
    runs: Collection[UUID],
    *,
    strikes: Sequence[Strike] = (),
    patience_seconds: float = DRAIN_SECONDS,
) -> Findings:
    """Judge these runs; raises `psycopg.OperationalError` when Postgres is away."""
    evidence = gather(
        witness.database_url,
        Ledger(witness.ledger),
        accepted=runs,
        audit_key=witness.audit_key,
        lease_seconds=witness.lease_seconds,
        max_crashes=witness.max_crashes,
        patience_seconds=patience_seconds,
        in_parts=True,
        strikes=strikes,
        places=witness.places,
    )
    objections = judge(evidence, RULES_OF_RUNS)
    if len(objections) > MOST_OBJECTIONS_A_PART:
        objections[MOST_OBJECTIONS_A_PART:] = [f"and {len(objections) - MOST_OBJECTIONS_A_PART} more like these"]
    return Findings(
        objections=objections,
        runs={run.id for run in evidence.runs},
        outcomes=Tally(run.status for run in evidence.runs),
        calls=Tally(call.outcome or "undecided" for call in evidence.calls),
        gaps=list(gaps(Case(evidence))),
        steps=len(evidence.steps),
        claims=sum(step.epoch for step in evidence.steps),
        knocks=len(evidence.knocks),
        effects=len(evidence.effects),
    )


def judge_story(
    witness: Witness,
    *,
    strikes: Sequence[Strike],
    leftovers: Sequence[str],
    say: Callable[[str], None] = lambda line: None,
    steps_a_part: int,
) -> Findings:
    """Judge every run that is in the database, also those that nobody was told of."""
    divided = list(parts(sizes_of_runs(witness.database_url), steps_a_part=steps_a_part))
    found = Findings()
    with ExitStack() as stack:
        # One part alone is not worth a process.
        each = map if len(divided) < 2 else stack.enter_context(judges(JUDGES)).map
        for number, heard in enumerate(each(partial(hear, witness, strikes=strikes), divided), start=1):
            found.add(heard)
            say(f"judged part {number} of {len(divided)}: {found.steps} steps, {len(found.objections)} objections")
    whole = gather_whole(witness.database_url, Ledger(witness.ledger), audit_key=witness.audit_key, leftovers=leftovers)
    found.objections += judge(whole, RULES_OF_THE_WHOLE)
    if not whole.accepted:
        found.objections.append("no run was accepted: there is nothing to judge")
    return found


def judges(count: int) -> ProcessPoolExecutor:
    """So many processes that judge; they share nothing with this one, whose threads serve every connection."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def parts(sizes: Mapping[UUID, int], *, steps_a_part: int) -> Iterator[list[UUID]]:
    """The runs in order, together as long as they have no more steps than that; a larger run is a part of its own."""
    part: list[UUID] = []
    steps = 0
    for run, size in sizes.items():
        if part and steps + size > steps_a_part:
            yield part
            part, steps = [], 0
        part.append(run)
        steps += size
    if part:
        yield part
