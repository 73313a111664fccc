"""A run as a tree of lines on a terminal, folded to its height."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli.following import Look
from chargehand.orchestrator.cli.terminal import STATUS_STYLES, duration, money, one_line, short
from chargehand.orchestrator.drawing.outline import GLYPHS, Line, lines_of
from chargehand.orchestrator.views import StepView

# Kept when a graph is larger than the screen.
_LIVELY = ("running", "waiting", "failed")
# Header, footer and hints around the tree.
FRAME_LINES = 7
KEY_WIDTH = 44


def draw(look: Look, *, height: int | None = None, hint: str = "") -> RenderableType:
    """The run as it is now; `height`: of the screen, to which a large graph is folded."""
    lines = lines_of(look.steps)
    hidden: list[StepView] = []
    room = max(3, height - FRAME_LINES) if height else len(lines)
    if len(lines) > room:
        lively = [line for line in lines if line.step.status in _LIVELY][: room - 1]
        shown = {line.step.key for line in lively}
        hidden = [line.step for line in lines if line.step.key not in shown]
        lines = [Line(step=line.step, branches="", below="") for line in lively]
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


def _cells(line: Line[StepView], look: Look) -> tuple[Text, Text, Text, Text, Text]:
    step = line.step
    style = STATUS_STYLES.get(step.status, "dim")
    name = Text.assemble(
        (line.branches, "dim"),
        (f"{GLYPHS.get(step.status, '·')} ", style),
        (one_line(step.key), "" if step.status in STATUS_STYLES and step.status != "skipped" else "dim"),
    )
    role = Text(one_line(step.label, 16) if step.kind in ("agent", "celery_task") else "", style="magenta")
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
