"""A graph of steps as a tree of lines: a step stands below the last step that all its ways lead through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from chargehand.orchestrator.drawing.figure import Edge, Figure, Node

WIDTH = 110
# Wide enough for most keys, and no wider than leaves half of a line for what the step does.
MOST_KEY_WIDTH = 52
MOST_NAMED = 3
_JOINS = {"all": "← after", "any": "← first of", "settled": "← end of"}
GLYPHS = {
    "pending": "·", "chained": "·", "ready": "○", "queued": "○", "running": "●", "waiting": "?", "succeeded": "✓",
    "failed": "✗", "cancelled": "✗", "skipped": "–", "superseded": "~",
}  # fmt: skip


class Step(Protocol):
    """What a tree needs to know of a step."""

    @property
    def key(self) -> str:
        """Unique."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """Keys of the steps that it waits for."""
        ...


S = TypeVar("S", bound=Step)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line(Generic[S]):
    """A step and the branches drawn before it."""

    step: S
    branches: str
    below: str
    """What is drawn before the lines that belong to it."""


def lines_of(steps: Sequence[S]) -> list[Line[S]]:
    """The steps as a tree; a step that is its parent's only child stands straight below it, without indentation."""
    children = _children(steps)
    lines: list[Line[S]] = []
    # (step, what is drawn before it, what is drawn before those below it)
    todo: list[tuple[S, str, str]] = [(step, "", "") for step in reversed(children.get(None, []))]
    while todo:
        step, first, below = todo.pop()
        lines.append(Line(step=step, branches=first, below=below))
        inner = children.get(step.key, [])
        if len(inner) == 1:
            todo.append((inner[0], below, below))
            continue
        for position, child in reversed(list(enumerate(inner))):
            last = position == len(inner) - 1
            todo.append((child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))
    return lines


def _children(steps: Sequence[S]) -> dict[str | None, list[S]]:
    """Steps by their immediate dominator; plan order is topological, so one pass is enough."""
    parent: dict[str, str | None] = {}
    depth: dict[str | None, int] = {None: 0}
    children: dict[str | None, list[S]] = {}
    for step in steps:
        known = [key for key in step.after if key in parent]
        above: str | None = known[0] if known else None
        for key in known[1:]:
            other: str | None = key
            while above != other:
                if depth[above] >= depth[other]:
                    above = parent[above] if above is not None else None
                else:
                    other = parent[other] if other is not None else None
        parent[step.key] = above
        depth[step.key] = depth[above] + 1
        children.setdefault(above, []).append(step)
    return children


def draw_text(figure: Figure, *, width: int = WIDTH) -> str:
    """The figure as lines no longer than `width`; a body stands behind a dotted line below its owner."""
    rows = _rows(figure)
    name_width = min(MOST_KEY_WIDTH, max((len(name) for name, _ in rows), default=0))
    return "".join(_cut(f"{name.ljust(name_width)}  {rest}", width) + "\n" for name, rest in rows)


def _rows(figure: Figure) -> list[tuple[str, str]]:
    """Each node's place and name, and what is said of it."""
    children = figure.children()
    names = {node.key: node.name for node in figure.nodes}
    rows: list[tuple[str, str]] = []
    # (the lines of a body that are still to come, what is drawn before them)
    trail = [(iter(lines_of(children.get(None, []))), "")]
    while trail:
        lines, before = trail[-1]
        line = next(lines, None)
        if line is None:
            trail.pop()
            continue
        node = line.step
        glyph = f"{GLYPHS.get(node.status, '·')} " if figure.is_run and node.kind != "more" else ""
        # Of a step that waits for several, each label stands with its step.
        label = f"[{node.edges[0].label}] " if len(node.edges) == 1 and node.edges[0].label else ""
        rows.append((f"{before}{line.branches}{glyph}{label}{node.name}", _said_of(node, names)))
        if node.key in children:
            trail.append((iter(lines_of(children[node.key])), f"{before}{line.below}┊  "))
    return rows


def _said_of(node: Node, names: Mapping[str, str]) -> str:
    status = node.status if node.status != "succeeded" else ""
    title = f"“{node.title}”" if node.title else ""
    waits = f"{_JOINS[node.join]} {_named(node.edges, names)}" if len(node.edges) > 1 else ""
    return "  ".join(part for part in (status, node.what, waits, title) if part)


def _named(edges: Sequence[Edge], names: Mapping[str, str]) -> str:
    some = [names[edge.source] + (f" [{edge.label}]" if edge.label else "") for edge in edges[:MOST_NAMED]]
    return ", ".join(some) + (f" and {len(edges) - MOST_NAMED} more" if len(edges) > MOST_NAMED else "")


def _cut(line: str, width: int) -> str:
    line = " ".join(line.split("\n")).rstrip()
    return line if len(line) <= width else f"{line[: width - 1]}…"
