"""How a graph of steps becomes a tree of lines: a step stands below the last step that all its ways lead through."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli.following import Look
from chargehand.orchestrator.cli.terminal import STATUS_STYLES, duration, money, one_line, short
from chargehand.orchestrator.views import StepView

GLYPHS = {
    "pending": "·",
    "chained": "·",
    "ready": "○",
    "queued": "○",
    "running": "●",
    "waiting": "?",
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "✗",
    "skipped": "–",
}
# Kept when a graph is larger than the screen.
_LIVELY = ("running", "waiting", "failed")
# Header, footer and hints around the tree.
FRAME_LINES = 7
KEY_WIDTH = 44


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A step and the branches drawn before it."""

    step: StepView
    branches: str


def lines_of(steps: Sequence[StepView]) -> list[Line]:
    """The steps as a tree; a step that is its parent's only child stands straight below it, without indentation."""
    children = _children(steps)
    lines: list[Line] = []
    # (step, what is drawn before it, what is drawn before those below it)
    todo: list[tuple[StepView, str, str]] = [(step, "", "") for step in reversed(children.get(None, []))]
    while todo:
        step, first, below = todo.pop()
        lines.append(Line(step=step, branches=first))
        inner = children.get(step.key, [])
        if len(inner) == 1:
            todo.append((inner[0], below, below))
            continue
        for position, child in reversed(list(enumerate(inner))):
            last = position == len(inner) - 1
            todo.append((child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))
    return lines


def _children(steps: Sequence[StepView]) -> dict[str | None, list[StepView]]:
    """Steps by their immediate dominator; plan order is topological, so one pass is enough."""
    parent: dict[str, str | None] = {}
    depth: dict[str | None, int] = {None: 0}
    children: dict[str | None, list[StepView]] = {}
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


def draw(look: Look, *, height: int | None = None, hint: str = "") -> RenderableType:
    """The run as it is now; `height`: of the screen, to which a large graph is folded."""
    lines = lines_of(look.steps)
    hidden: list[StepView] = []
    room = max(3, height - FRAME_LINES) if height else len(lines)
    if len(lines) > room:
        lively = [line for line in lines if line.step.status in _LIVELY][: room - 1]
        shown = {line.step.key for line in lively}
        hidden = [line.step for line in lines if line.step.key not in shown]
        lines = [Line(step=line.step, branches="") for line in lively]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=KEY_WIDTH)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.expand = True
    for line in lines:
        grid.add_row(*_cells(line, look))
    parts: list[RenderableType] = [headline(look), grid]
    if hidden:
        parts.append(Text(f"… and {_counts(hidden)}", style="dim"))
    parts += [Text(note, style="yellow", overflow="fold") for note in look.notes]
    if hint:
        parts.append(Text(hint, style="dim"))
    return Group(*parts)


def headline(look: Look) -> Text:
    """The run in one line."""
    run = look.run
    took = ((run.finished_at or look.at) - run.created_at).total_seconds()
    return Text.assemble(
        ("Run ", "bold"),
        (short(run.run_id), "bold cyan"),
        "  ",
        (run.status, STATUS_STYLES.get(run.status, "")),
        f"  {run.steps_ended} of {run.steps} steps  {money(run.spent_microusd)} of {money(run.cap_microusd)}"
        f"  {duration(took)}",
    )


def _cells(line: Line, look: Look) -> tuple[Text, Text, Text, Text, Text]:
    step = line.step
    style = STATUS_STYLES.get(step.status, "dim")
    name = Text.assemble(
        (line.branches, "dim"),
        (f"{GLYPHS.get(step.status, '·')} ", style),
        (one_line(step.key), "" if step.status in STATUS_STYLES and step.status != "skipped" else "dim"),
    )
    role = Text(one_line(step.label, 16) if step.kind == "agent" else "", style="magenta")
    turns = Text(f"{step.turns} turn{'s' if step.turns != 1 else ''}" if step.turns else "", style="dim")
    seconds = Text("")
    if step.started_at is not None:
        ended = step.finished_at or (look.at if step.status in ("running", "waiting") else None)
        seconds = Text(duration((ended - step.started_at).total_seconds()) if ended else "", style="dim")
    return name, role, turns, seconds, _note(step, look)


def _note(step: StepView, look: Look) -> Text:
    if step.status == "failed":
        return Text(one_line(step.error, 300), style="red")
    if step.status == "waiting":
        return Text(f"waits for {step.wait_reason or 'its time'}", style="yellow")
    again = f"(attempt {step.epoch}) " if step.crashes and step.status == "running" else ""
    said = look.progress.get(step.key, "") if step.status == "running" else ""
    if said:
        return Text(again + one_line(said, 200), style="cyan")
    return Text(again + one_line(step.title, 200), style="dim")


def _counts(steps: Sequence[StepView]) -> str:
    counted: dict[str, int] = {}
    for step in steps:
        counted[step.status] = counted.get(step.status, 0) + 1
    return ", ".join(f"{count:,} {status}" for status, count in counted.items())
