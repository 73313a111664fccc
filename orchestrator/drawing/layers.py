"""Where boxes stand and lines run: layers from the top, few crossings, what belongs together close together.

The way of Sugiyama: a box stands one layer below the lowest of those it comes from; a line that passes layers gets a
point in each; the order in a layer follows the neighbours' order, up and down; then all are moved towards their
neighbours as far as their order and their widths allow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

LAYER_GAP = 46.0
BOX_GAP = 24.0
# A line that passes a layer needs less room than a box.
LINE_WIDTH = 6.0
SWEEPS = 8
SHIFTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """What is placed."""

    key: str
    width: float
    height: float


Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where everything is."""

    corners: Mapping[str, Point]
    """The upper left one of each box."""
    lines: Mapping[tuple[str, str], Sequence[Point]]
    """From the lower edge of one box to the upper edge of another."""
    width: float
    height: float


def lay_out(boxes: Sequence[Box], edges: Iterable[tuple[str, str]]) -> Layout:
    """Place boxes and lines; the edges have no cycle, and boxes come after those they come from."""
    graph = _Graph(boxes, list(dict.fromkeys(edges)))
    for _ in range(SWEEPS):
        graph.sort(downwards=True)
        graph.sort(downwards=False)
    graph.keep_best()
    return graph.placed()


class _Graph:
    """Boxes and the points of passing lines, in layers; both are called nodes here, and are numbers."""

    def __init__(self, boxes: Sequence[Box], edges: Sequence[tuple[str, str]]) -> None:
        self.boxes = boxes
        self.numbers = {box.key: number for number, box in enumerate(boxes)}
        self.widths = [box.width for box in boxes]
        self.heights = [box.height for box in boxes]
        self.layer = self._layers(edges)
        self.above: list[list[int]] = [[] for _ in boxes]
        self.below: list[list[int]] = [[] for _ in boxes]
        self.paths: dict[tuple[str, str], list[int]] = {}
        for source, target in edges:
            self.paths[(source, target)] = self._path(self.numbers[source], self.numbers[target])
        self.rows: list[list[int]] = [[] for _ in range(max(self.layer, default=-1) + 1)]
        for node, layer in enumerate(self.layer):
            self.rows[layer].append(node)
        self.best = ([list(row) for row in self.rows], self.crossings())

    def _layers(self, edges: Sequence[tuple[str, str]]) -> list[int]:
        layer = [0] * len(self.boxes)
        outgoing: dict[int, list[int]] = {}
        for source, target in edges:
            outgoing.setdefault(self.numbers[source], []).append(self.numbers[target])
        for number in range(len(self.boxes)):
            for reached in outgoing.get(number, ()):
                layer[reached] = max(layer[reached], layer[number] + 1)
        return layer

    def _path(self, source: int, target: int) -> list[int]:
        """The nodes of a line, with a point in each layer that it passes."""
        path = [source]
        for layer in range(self.layer[source] + 1, self.layer[target]):
            self.layer.append(layer)
            self.widths.append(LINE_WIDTH)
            self.heights.append(0.0)
            self.above.append([])
            self.below.append([])
            path.append(len(self.layer) - 1)
        path.append(target)
        for upper, lower in pairwise(path):
            self.below[upper].append(lower)
            self.above[lower].append(upper)
        return path

    def sort(self, *, downwards: bool) -> None:
        """Order each layer by where its neighbours in the layer before stand on average."""
        rows = self.rows[1:] if downwards else list(reversed(self.rows[:-1]))
        neighbours = self.above if downwards else self.below
        places = {node: place for row in self.rows for place, node in enumerate(row)}
        for row in rows:
            wanted = {
                node: sum(places[other] for other in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else float(places[node])
                for node in row
            }
            row.sort(key=lambda node: wanted[node])
            places |= {node: place for place, node in enumerate(row)}
        crossings = self.crossings()
        if crossings < self.best[1]:
            self.best = ([list(row) for row in self.rows], crossings)

    def keep_best(self) -> None:
        """Go back to the order with the fewest crossings."""
        self.rows = self.best[0]

    def crossings(self) -> int:
        """How many pairs of lines cross."""
        crossed = 0
        for row, next_row in pairwise(self.rows):
            places = {node: place for place, node in enumerate(next_row)}
            # Lines from left to right: each crosses those before it that end further right. A Fenwick tree counts them.
            counts = [0] * (len(next_row) + 1)
            seen = 0
            for node in row:
                ends = sorted(places[other] for other in self.below[node])
                for end in ends:
                    crossed += seen - _counted(counts, end + 1)
                for end in ends:
                    _count(counts, end + 1)
                    seen += 1
        return crossed

    def placed(self) -> Layout:
        """Give every node its place."""
        centres = self._centres()
        every = range(len(self.widths))
        left = min((centres[node] - self.widths[node] / 2 for node in every), default=0.0)
        right = max((centres[node] + self.widths[node] / 2 for node in every), default=0.0)
        tall = [max(self.heights[node] for node in row) for row in self.rows]
        tops = [sum(tall[:layer]) + layer * LAYER_GAP for layer in range(len(tall) + 1)]
        corners = {
            box.key: (centres[number] - left - box.width / 2, self._middle(number, tops, tall) - box.height / 2)
            for number, box in enumerate(self.boxes)
        }
        lines: dict[tuple[str, str], list[Point]] = {}
        for ends, path in self.paths.items():
            points: list[Point] = []
            for node in path:
                x, top, middle = centres[node] - left, tops[self.layer[node]], self._middle(node, tops, tall)
                # It leaves a box at its lower edge, passes a layer straight, and ends at the upper edge of a box.
                upper = middle + self.heights[node] / 2 if node == path[0] else top
                lower = middle - self.heights[node] / 2 if node == path[-1] else top + tall[self.layer[node]]
                points += [(x, upper)] if lower - upper < 1 else [(x, upper), (x, lower)]
            lines[ends] = points
        return Layout(corners=corners, lines=lines, width=right - left, height=max(0.0, tops[-1] - LAYER_GAP))

    def _middle(self, node: int, tops: Sequence[float], tall: Sequence[float]) -> float:
        return tops[self.layer[node]] + tall[self.layer[node]] / 2

    def _centres(self) -> list[float]:
        centres = [0.0] * len(self.widths)
        for row in self.rows:
            x = 0.0
            for node in row:
                centres[node] = x + self.widths[node] / 2
                x += self.widths[node] + BOX_GAP
        for shift in range(SHIFTS):
            downwards = shift % 2 == 0
            for row in self.rows if downwards else reversed(self.rows):
                self._shift(row, centres, self.above if downwards else self.below)
        return centres

    def _shift(self, row: Sequence[int], centres: list[float], neighbours: Sequence[Sequence[int]]) -> None:
        """Move a layer towards its neighbours, as near as order and widths allow: least squares in order."""
        offsets: list[float] = []
        x = 0.0
        for place, node in enumerate(row):
            if place:
                x += (self.widths[row[place - 1]] + self.widths[node]) / 2 + BOX_GAP
            offsets.append(x)
        # Blocks that move together: (their mean, how many).
        blocks: list[tuple[float, int]] = []
        for offset, node in zip(offsets, row, strict=True):
            others = neighbours[node]
            wanted = sum(centres[other] for other in others) / len(others) if others else centres[node]
            blocks.append((wanted - offset, 1))
            while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
                (mean, count), (last, size) = blocks[-2:]
                blocks[-2:] = [((mean * count + last * size) / (count + size), count + size)]
        starts = [mean for mean, count in blocks for _ in range(count)]
        for start, offset, node in zip(starts, offsets, row, strict=True):
            centres[node] = start + offset


def _count(counts: list[int], place: int) -> None:
    while place < len(counts):
        counts[place] += 1
        place += place & -place


def _counted(counts: Sequence[int], place: int) -> int:
    found = 0
    while place > 0:
        found += counts[place]
        place -= place & -place
    return found
