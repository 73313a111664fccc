"""A figure as one SVG image: boxes by kind, states as words and colours, for light and dark screens."""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.sax.saxutils import escape

from chargehand.orchestrator.drawing.figure import Edge, Figure, Node
from chargehand.orchestrator.drawing.layers import LAYER_GAP, Box, Point, lay_out
from chargehand.orchestrator.drawing.mermaid import state_of

# Of the fonts named below, at their size; a little wide, so that no text leaves its box.
CHARACTER_WIDTH = 7.3
LINE_HEIGHT = 16.0
PADDING = 12.0
MOST_CHARACTERS = 38
LEAST_WIDTH = 110.0
MARGIN = 16.0
# Steps that wait for the same and are waited for by the same stand in a grid, which one line reaches.
GRID_FROM = 7
GRID_GAP = 10.0
# XML has no way to write these at all.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

STYLE = """
svg { --ground: #ffffff; --text: #212529; --dim: #495057; --line: #868e96; --box: #f8f9fa; --body: #f1f3f5;
  --running: #1971c2; --waiting: #b35c00; --succeeded: #2b8a3e; --failed: #c92a2a; --cancelled: #862e9c;
  background: var(--ground); font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }
@media (prefers-color-scheme: dark) { svg { --ground: #16181b; --text: #e9ecef; --dim: #adb5bd; --line: #868e96;
  --box: #24272b; --body: #1d2023; --running: #74c0fc; --waiting: #ffc078; --succeeded: #69db7c; --failed: #ff8787;
  --cancelled: #e599f7 } }
text { fill: var(--text) } .name { font-weight: bold } .what, .title { fill: var(--dim) }
.shape { fill: var(--box); stroke: var(--line); stroke-width: 1.5 } .body > .shape { fill: var(--body) }
.template > .shape { stroke-dasharray: 5 4 } .grid { fill: none; stroke: var(--line); stroke-dasharray: 2 4 }
.edge { fill: none; stroke: var(--line); stroke-width: 1.5 } .passed { stroke-dasharray: 3 4; opacity: .6 }
.label { fill: var(--dim); text-anchor: middle; paint-order: stroke; stroke: var(--ground); stroke-width: 5px }
#arrow path { fill: var(--line) }
.running > .shape { stroke: var(--running); stroke-width: 3 } .running > .state { fill: var(--running) }
.waiting > .shape { stroke: var(--waiting); stroke-width: 3 } .waiting > .state { fill: var(--waiting) }
.succeeded > .shape { stroke: var(--succeeded) } .succeeded > .state { fill: var(--succeeded) }
.failed > .shape { stroke: var(--failed); stroke-width: 3 } .failed > .state { fill: var(--failed) }
.cancelled > .shape { stroke: var(--cancelled) } .cancelled > .state { fill: var(--cancelled) }
.skipped, .superseded { opacity: .75 } .skipped > .shape { stroke-dasharray: 4 3 }
.superseded > .shape { stroke-dasharray: 1 3 }
"""


def draw_svg(figure: Figure, *, title: str, is_styled: bool = True) -> str:
    """The figure as an SVG document; texts of the plan are texts in it, whatever they contain.

    `is_styled`: False leaves `STYLE` to the page that shows it.
    """
    drawn = _body(figure, figure.children(), None)
    width, height = drawn.width + 2 * MARGIN, drawn.height + 2 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{_attribute(title)}">'
    )
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    lines = [head, f"<title>{_text(title)}</title>", *([f"<style>{STYLE}</style>"] if is_styled else []), arrow]
    lines.append(f'<g transform="translate({MARGIN:.0f} {MARGIN:.0f})">')
    return "\n".join([*lines, *drawn.lines, "</g>", "</svg>", ""])


@dataclass(kw_only=True, slots=True)
class _Drawn:
    """A part of the picture, with its upper left corner at 0 0."""

    width: float
    height: float
    lines: list[str] = field(default_factory=list)

    def add(self, part: "_Drawn", corner: Point) -> None:
        """Put a part into this one."""
        x, y = corner
        self.lines += [f'<g transform="translate({x:.1f} {y:.1f})">', *part.lines, "</g>"]


def _body(figure: Figure, children: dict[str | None, list[Node]], parent: str | None) -> _Drawn:
    """The nodes of one body, with lines between them."""
    nodes = children.get(parent, [])
    drawn = {node.key: _node(node, figure, children) for node in nodes}
    grid_of: dict[str, str] = {}
    parts: dict[str, _Drawn] = {}
    for alike in _alike(nodes):
        parts[alike[0].key] = _grid([drawn[node.key] for node in alike]) if len(alike) > 1 else drawn[alike[0].key]
        grid_of |= {node.key: alike[0].key for node in alike}
    edges = {(grid_of[edge.source], grid_of[node.key]): (edge, node) for node in nodes for edge in node.edges}
    layout = lay_out([Box(key=key, width=part.width, height=part.height) for key, part in parts.items()], edges)
    whole = _Drawn(width=layout.width, height=layout.height)
    labels: list[str] = []
    for ends, (edge, node) in edges.items():
        points = layout.lines[ends]
        passed = "" if edge.is_taken else " passed"
        whole.lines.append(f'<path class="edge{passed}" marker-end="url(#arrow)" d="{_path(points)}"/>')
        labels += _edge_label(edge, node, points)
    for key, part in parts.items():
        whole.add(part, layout.corners[key])
    # Above everything, so that no box covers a word.
    whole.lines += labels
    return whole


def _alike(nodes: Sequence[Node]) -> list[list[Node]]:
    """Groups of nodes with the same neighbours, if there are many of them; otherwise each by itself."""
    waited_for: dict[str, list[str]] = {}
    for node in nodes:
        for edge in node.edges:
            waited_for.setdefault(edge.source, []).append(node.key)
    groups: dict[tuple[object, ...], list[Node]] = {}
    for node in nodes:
        groups.setdefault((node.edges, node.join, tuple(waited_for.get(node.key, ()))), []).append(node)
    first = {node.key: group if len(group) >= GRID_FROM else [node] for group in groups.values() for node in group}
    return [group for node in nodes if (group := first[node.key])[0] is node]


def _grid(parts: Sequence[_Drawn]) -> _Drawn:
    columns = max(4, math.ceil(math.sqrt(len(parts) / 2)))
    width = max(part.width for part in parts) + GRID_GAP
    rows = [parts[start : start + columns] for start in range(0, len(parts), columns)]
    grid = _Drawn(width=min(columns, len(parts)) * width + GRID_GAP, height=GRID_GAP)
    for row in rows:
        for column, part in enumerate(row):
            grid.add(part, (GRID_GAP + column * width, grid.height))
        grid.height += max(part.height for part in row) + GRID_GAP
    grid.lines.insert(0, f'<rect class="grid" width="{grid.width:.1f}" height="{grid.height:.1f}" rx="6"/>')
    return grid


# --- one node ---------------------------------------------------------------------------------------------------------


def _node(node: Node, figure: Figure, children: dict[str | None, list[Node]]) -> _Drawn:
    texts = [("name", node.name), ("what", node.what), ("title", node.title), ("state", node.status)]
    shown = [(style, _short(text)) for style, text in texts if text]
    longest = max(_columns(text) for _, text in shown) * CHARACTER_WIDTH
    slope = SLOPES.get(node.kind, 0.0)
    drawn = _Drawn(
        width=max(LEAST_WIDTH, longest + 2 * PADDING + 2 * slope), height=len(shown) * LINE_HEIGHT + 2 * PADDING
    )
    body = _body(figure, children, node.key) if node.key in children else None
    words_end = drawn.height
    if body is not None:
        drawn.width = max(drawn.width, body.width + 2 * PADDING)
        drawn.height += body.height + PADDING
    classes = [state_of(node) if node.status else "template" if figure.is_run else "planned"]
    classes += ["body"] if body is not None else []
    full = " · ".join(text for _, text in texts if text)
    drawn.lines.append(f'<g class="{" ".join(classes)}"><title>{_text(full)}</title>')
    drawn.lines.append(_shape(node, drawn, slope if body is None else 0.0))
    for number, (style, text) in enumerate(shown):
        y = PADDING + (number + 0.75) * LINE_HEIGHT
        drawn.lines.append(
            f'<text class="{style}" x="{drawn.width / 2:.1f}" y="{y:.1f}" text-anchor="middle">{_text(text)}</text>'
        )
    drawn.lines.append("</g>")
    if body is not None:
        drawn.add(body, ((drawn.width - body.width) / 2, words_end))
    return drawn


# How far the sides of a shape lean in, by kind; others are rectangles.
SLOPES = {"gate": 16.0, "branch": 28.0, "merge": 14.0, "celery_task": 14.0}


def _shape(node: Node, drawn: _Drawn, slope: float) -> str:
    w, h = drawn.width, drawn.height
    if slope == 0:
        radius = min(h / 2, 24.0) if node.kind == "agent" else 4.0
        return f'<rect class="shape" width="{w:.1f}" height="{h:.1f}" rx="{radius:.1f}"/>'
    if node.kind == "merge":
        corners = [(0, 0), (w, 0), (w - slope, h), (slope, h)]
    elif node.kind == "celery_task":
        corners = [(slope, 0), (w, 0), (w - slope, h), (0, h)]
    else:
        corners = [(0, h / 2), (slope, 0), (w - slope, 0), (w, h / 2), (w - slope, h), (slope, h)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polygon class="shape" points="{points}"/>'


# --- lines and texts --------------------------------------------------------------------------------------------------


def _path(points: Sequence[Point]) -> str:
    """Straight inside of layers, curved between them."""
    (x, y), *rest = points
    path = [f"M{x:.1f} {y:.1f}"]
    for next_x, next_y in rest:
        if abs(next_x - x) < 0.5:
            path.append(f"L{next_x:.1f} {next_y:.1f}")
        else:
            bend = (y + next_y) / 2
            path.append(f"C{x:.1f} {bend:.1f} {next_x:.1f} {bend:.1f} {next_x:.1f} {next_y:.1f}")
        x, y = next_x, next_y
    return "".join(path)


def _edge_label(edge: Edge, node: Node, points: Sequence[Point]) -> list[str]:
    said = edge.label or ("first" if node.join == "any" else "")
    if not said:
        return []
    # Labels of one branch part from each other, those of a race come together: so near the end, or the beginning.
    gaps = [ends for ends in pairwise(points) if ends[1][1] - ends[0][1] > LAYER_GAP - 1]
    ((x1, y1), (x2, y2)), share = (gaps[-1], 0.7) if edge.label else (gaps[0], 0.4)
    x, y = x1 + (x2 - x1) * share, y1 + (y2 - y1) * share
    return [f'<text class="label" x="{x:.1f}" y="{y:.1f}">{_text(_short(said))}</text>']


def _short(text: str) -> str:
    text = " ".join(text.split())
    if _columns(text) <= MOST_CHARACTERS:
        return text
    while _columns(text) >= MOST_CHARACTERS:
        text = text[:-1]
    return f"{text}…"


def _columns(text: str) -> int:
    """How many columns the text is wide in a fixed font."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _text(text: str) -> str:
    return escape(_IMPOSSIBLE.sub("\ufffd", text))


def _attribute(text: str) -> str:
    return escape(_IMPOSSIBLE.sub("\ufffd", text), {'"': "&quot;", "\n": " "})
