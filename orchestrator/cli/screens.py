"""The two ways to show a run that goes on: a tree that changes in place, and a line for each change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from chargehand.orchestrator.cli.following import Look, Screen
from chargehand.orchestrator.cli.terminal import STATUS_STYLES, duration, one_line, plain
from chargehand.orchestrator.cli.tree import draw, headline
from chargehand.orchestrator.drawing.outline import GLYPHS
from chargehand.orchestrator.views import StepView

# A line of progress more often than this drowns the changes that matter in a log.
PROGRESS_SECONDS = 5.0
# Being on the way is not news.
_QUIET = frozenset({"pending", "chained", "ready", "queued"})


@contextmanager
def opened_screen(console: Console, *, hint: str = "") -> Iterator[Screen]:
    """A tree in a terminal, lines in a file or pipe."""
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        tree = Tree(live, hint=hint)
        try:
            yield tree
        finally:
            tree.finish()


class Tree:
    """Redraws the whole run in place."""

    def __init__(self, live: Live, *, hint: str) -> None:
        """Nothing is drawn yet."""
        self._live, self._hint = live, hint
        self._look: Look | None = None

    def show(self, look: Look) -> None:
        """Draw this look over the one before."""
        self._look = look
        self._live.update(draw(look, height=self._live.console.size.height, hint=self._hint), refresh=True)

    def say(self, line: str) -> None:
        """Print above the tree."""
        self._live.console.print(Text(plain(line), style="dim"))

    def finish(self) -> None:
        """Leave the last look without the hint; what does not fit on the screen stays folded."""
        if self._look is not None:
            self._live.update(draw(self._look, height=self._live.console.size.height), refresh=True)


@dataclass(kw_only=True, slots=True)
class _Seen:
    status: str = "pending"
    epoch: int = 0
    progress: str = ""
    progress_at: datetime | None = None


@dataclass(slots=True)
class Lines:
    """Prints one line for each step that starts, waits or ends, and a few of what it is doing."""

    console: Console
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _notes: set[str] = field(default_factory=set)
    _began: bool = False

    def show(self, look: Look) -> None:
        """Print what is new since the look before."""
        if not self._began:
            self._began = True
            self.console.print(headline(look), soft_wrap=True)
        for step in look.steps:
            seen = self._seen.setdefault(step.key, _Seen())
            changed = (step.status, step.epoch) != (seen.status, seen.epoch)
            if changed and step.status not in _QUIET:
                self.console.print(_change(step), soft_wrap=True)
            seen.status, seen.epoch = step.status, step.epoch
            self._show_progress(step, look, seen)
        for note in look.notes:
            if note not in self._notes:
                self._notes.add(note)
                self.say(note)

    def say(self, line: str) -> None:
        """Print it as it is."""
        self.console.print(Text(plain(line)), soft_wrap=True)

    def _show_progress(self, step: StepView, look: Look, seen: _Seen) -> None:
        said = look.progress.get(step.key, "") if step.status == "running" else ""
        if not said or said == seen.progress:
            return
        if seen.progress_at is not None and (look.at - seen.progress_at).total_seconds() < PROGRESS_SECONDS:
            return
        seen.progress, seen.progress_at = said, look.at
        self.console.print(Text(f"    {step.key}: {one_line(said, 200)}", style="dim"), soft_wrap=True)


def _change(step: StepView) -> Text:
    words = [one_line(step.key)]
    if step.status == "running":
        words.append(f"starts: {one_line(step.title, 100)}" if step.title else "starts")
        if step.epoch > 1:
            words.append(f"(attempt {step.epoch})")
    else:
        words.append(step.status)
        if step.started_at and step.finished_at:
            words.append(f"in {duration((step.finished_at - step.started_at).total_seconds())}")
        if step.turns:
            words.append(f"after {step.turns} turn{'s' if step.turns != 1 else ''}")
        if step.error:
            words.append(f"- {one_line(step.error, 300)}")
    style = STATUS_STYLES.get(step.status, "")
    return Text.assemble((f"  {GLYPHS.get(step.status, '·')} ", style), " ".join(words))
