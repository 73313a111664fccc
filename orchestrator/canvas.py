"""Which Celery chains and chords an admitted set of steps becomes; values only, nothing is sent here.

A maximal line of admitted steps is a chain. Chains that are together all the predecessors of one join, and all emitted
now, are the header of a chord whose body rings the bell. Everything else ends in the bell. Never nested deeper: a chord
inside a chord's header hangs in Celery when its inner header fails.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A step as the canvas sees it."""

    step_id: UUID
    pool: str
    label: str
    """Role or script, for whoever watches the workers."""
    before: tuple[UUID, ...]
    after: tuple[UUID, ...]
    """Its successors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One message: which pool runs which step."""

    step_id: UUID
    pool: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Links that run one after the other; on its own it ends by ringing the bell."""

    links: tuple[Link, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chord:
    """Chains that run side by side; when all have ended the bell is rung once."""

    header: tuple[Chain, ...]


Emission = Chain | Chord


def compose(graph: Mapping[UUID, Node], admitted: Sequence[UUID], *, followable: Collection[UUID]) -> list[Emission]:
    """Chains and chords of one emission.

    `admitted`: steps that start now, in order. `followable`: open steps that may follow one in a chain because nothing
    else has them on its way. Every admitted step is the head of exactly one chain.
    """
    chains = [_follow(graph, head, followable) for head in admitted]
    by_join: dict[UUID, list[Chain]] = defaultdict(list)
    for chain in chains:
        # A tail that fans out belongs to no one join; it ends in the bell.
        successors = graph[chain.links[-1].step_id].after
        if len(successors) == 1:
            by_join[successors[0]].append(chain)
    emissions: list[Emission] = []
    in_chord: set[UUID] = set()
    for join, headers in by_join.items():
        tails = {chain.links[-1].step_id for chain in headers}
        if len(headers) > 1 and tails == set(graph[join].before):
            emissions.append(Chord(header=tuple(headers)))
            in_chord |= {chain.links[0].step_id for chain in headers}
    emissions.extend(chain for chain in chains if chain.links[0].step_id not in in_chord)
    return emissions


def _follow(graph: Mapping[UUID, Node], head: UUID, followable: Collection[UUID]) -> Chain:
    line = [head]
    while True:
        successors = graph[line[-1]].after
        if len(successors) != 1:
            break
        follower = graph[successors[0]]
        if follower.before != (line[-1],) or follower.step_id not in followable:
            break
        line.append(follower.step_id)
    return Chain(links=tuple(Link(step_id=step, pool=graph[step].pool, label=graph[step].label) for step in line))


def chains_of(emissions: Sequence[Emission]) -> list[Chain]:
    """All chains of an emission, those in chords too."""
    return [
        chain for emission in emissions for chain in (emission.header if isinstance(emission, Chord) else (emission,))
    ]
