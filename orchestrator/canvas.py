"""Which Celery chains and chords an admitted set of steps becomes; values only, nothing is sent here.

A maximal line of admitted steps is a chain. Chains that are together all the predecessors of one join, and all emitted
now, are the header of a chord whose body rings the bell. Everything else ends in the bell. Never nested deeper: a chord
inside a chord's header hangs in Celery when its inner header fails. Of a large fan-out of scripts, many share a
message: a pack stands where their chains of one link would.
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
    packable: bool = False
    """A script that nothing follows in a chain."""


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
class Pack:
    """One message for several steps of one pool, which its worker runs one after the other."""

    links: tuple[Link, ...]


Line = Chain | Pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Chord:
    """Chains and packs that run side by side; when all have ended the bell is rung once."""

    header: tuple[Line, ...]


Emission = Chain | Pack | Chord


def compose(
    graph: Mapping[UUID, Node], admitted: Sequence[UUID], *, followable: Collection[UUID], pack_size: int = 1
) -> list[Emission]:
    """Chains, packs and chords of one emission.

    `admitted`: steps that start now, in order. `followable`: open steps that may follow one in a chain because nothing
    else has them on its way. Every admitted step is the head of exactly one chain, or in exactly one pack.
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
            lines = _packed(graph, headers, pack_size)
            # One pack that holds the whole header rings the bell itself.
            emissions.append(Chord(header=lines) if len(lines) > 1 else lines[0])
            in_chord |= {chain.links[0].step_id for chain in headers}
    rest = [chain for chain in chains if chain.links[0].step_id not in in_chord]
    return [*emissions, *_packed(graph, rest, pack_size)]


def _packed(graph: Mapping[UUID, Node], chains: Sequence[Chain], pack_size: int) -> tuple[Line, ...]:
    """The chains, those of one packable script each put together by `pack_size` to a pool."""
    lines: list[Line] = []
    alone: dict[str, list[Link]] = defaultdict(list)
    for chain in chains:
        (first, *followers) = chain.links
        if pack_size > 1 and not followers and graph[first.step_id].packable:
            alone[first.pool].append(first)
        else:
            lines.append(chain)
    for links in alone.values():
        for start in range(0, len(links), pack_size):
            some = tuple(links[start : start + pack_size])
            lines.append(Pack(links=some) if len(some) > 1 else Chain(links=some))
    return tuple(lines)


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


def lines_of(emissions: Sequence[Emission]) -> list[Line]:
    """All chains and packs of an emission, those in chords too."""
    return [
        line for emission in emissions for line in (emission.header if isinstance(emission, Chord) else (emission,))
    ]
