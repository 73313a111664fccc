"""The canvas: lines are chains, joins of whole lines are chords, nothing is nested or sent twice."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.canvas import Chain, Chord, Node, compose, lines_of

Graph = dict[UUID, Node]


def graph_of(after: Mapping[int, Collection[int]]) -> Graph:
    """Nodes from a mapping step → its predecessors."""
    successors: dict[int, list[int]] = {number: [] for number in after}
    for number, before in after.items():
        for predecessor in before:
            successors[predecessor].append(number)
    return {
        UUID(int=number): Node(
            step_id=UUID(int=number),
            pool="research",
            label=f"research/{number}",
            before=tuple(UUID(int=one) for one in before),
            after=tuple(UUID(int=one) for one in successors[number]),
        )
        for number, before in after.items()
    }


def numbers(chain: Chain) -> list[int]:
    return [link.step_id.int for link in chain.links]


def composed(
    after: Mapping[int, Collection[int]], admitted: Sequence[int], followable: Collection[int]
) -> list[object]:
    """Emissions as lists (chains) and tuples of lists (chords) of numbers."""
    emissions = compose(
        graph_of(after), [UUID(int=one) for one in admitted], followable={UUID(int=one) for one in followable}
    )
    return [
        tuple(numbers(chain) for chain in one.header) if isinstance(one, Chord) else numbers(one) for one in emissions
    ]


def test_a_line_is_a_chain() -> None:
    assert composed({1: [], 2: [1], 3: [2]}, [1], [2, 3]) == [[1, 2, 3]]


def test_a_chain_stops_where_a_step_is_on_its_way_by_other_means() -> None:
    assert composed({1: [], 2: [1], 3: [2]}, [1], [3]) == [[1]]


def test_a_fan_out_ends_the_chain() -> None:
    assert composed({1: [], 2: [1], 3: [1]}, [1], [2, 3]) == [[1]]


def test_lines_that_are_together_all_of_a_join_are_a_chord() -> None:
    assert composed({1: [], 2: [1], 3: [], 4: [2, 3]}, [1, 3], [2, 4]) == [([1, 2], [3])]


def test_a_join_that_arrives_in_parts_is_chains() -> None:
    assert composed({1: [], 2: [], 3: [1, 2]}, [1], [3]) == [[1]]


def test_a_join_of_one_line_is_no_chord() -> None:
    assert composed({1: [], 2: [1]}, [1], []) == [[1]]


def test_two_joins_are_two_chords() -> None:
    after = {1: [], 2: [], 3: [], 4: [], 5: [1, 2], 6: [3, 4]}
    assert composed(after, [1, 2, 3, 4], [5, 6]) == [([1], [2]), ([3], [4])]


@st.composite
def situations(draw: st.DrawFn) -> tuple[Graph, list[UUID], set[UUID]]:
    """A random graph of up to 60 steps, of which some have ended; what is ready is admitted, or a part of it."""
    count = draw(st.integers(1, 60))
    after: dict[int, list[int]] = {}
    for number in range(count):
        near = st.sampled_from(range(max(0, number - 5), number)) if number else st.nothing()
        after[number] = (
            draw(st.lists(near, max_size=draw(st.sampled_from([1, 1, 1, 2, 3])), unique=True)) if number else []
        )
    ended: set[int] = set()
    for number, before in after.items():
        if set(before) <= ended and draw(st.integers(0, 3)) == 0:
            ended.add(number)
    ready = [number for number, before in after.items() if number not in ended and set(before) <= ended]
    admitted = [number for number in ready if draw(st.integers(0, 4)) > 0]
    pending = {number for number in after if number not in ended and number not in ready}
    blocked = draw(st.sets(st.sampled_from(sorted(pending)), max_size=3)) if pending else set()
    return (
        graph_of(after),
        [UUID(int=one) for one in draw(st.permutations(admitted))],
        {UUID(int=one) for one in pending - blocked},
    )


def extends(graph: Graph, tail: UUID, followable: Collection[UUID]) -> bool:
    after = graph[tail].after
    return len(after) == 1 and graph[after[0]].before == (tail,) and after[0] in followable


@given(situations())
def test_every_admitted_step_heads_one_chain_and_no_step_is_sent_twice(
    situation: tuple[Graph, list[UUID], set[UUID]],
) -> None:
    graph, admitted, followable = situation
    emissions = compose(graph, admitted, followable=followable)
    chains = lines_of(emissions)
    heads = [chain.links[0].step_id for chain in chains]
    assert Counter(heads) == Counter(admitted)
    sent = [link.step_id for chain in chains for link in chain.links]
    assert len(sent) == len(set(sent))
    assert set(sent) - set(admitted) <= followable
    for emission in emissions:
        assert isinstance(emission, Chain | Chord)
        if isinstance(emission, Chord):
            assert all(isinstance(part, Chain) for part in emission.header)


@given(situations())
def test_every_maximal_line_is_a_chain(situation: tuple[Graph, list[UUID], set[UUID]]) -> None:
    graph, admitted, followable = situation
    for chain in lines_of(compose(graph, admitted, followable=followable)):
        steps = [link.step_id for link in chain.links]
        for before, after in pairwise(steps):
            assert graph[before].after == (after,)
            assert graph[after].before == (before,)
        assert not extends(graph, steps[-1], followable)


@given(situations())
def test_every_join_whose_predecessors_are_all_tails_is_a_chord_and_no_other_is(
    situation: tuple[Graph, list[UUID], set[UUID]],
) -> None:
    graph, admitted, followable = situation
    emissions = compose(graph, admitted, followable=followable)
    # A tail that fans out ends in the bell: it can be in the header of one chord only.
    tails = {chain.links[-1].step_id for chain in lines_of(emissions) if len(graph[chain.links[-1].step_id].after) == 1}
    joins = {node.step_id for node in graph.values() if len(node.before) > 1 and set(node.before) <= tails}
    headers = [
        frozenset(chain.links[-1].step_id for chain in one.header) for one in emissions if isinstance(one, Chord)
    ]
    assert Counter(headers) == Counter(frozenset(graph[join].before) for join in joins)
