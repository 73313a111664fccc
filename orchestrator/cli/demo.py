"""`chargehand demo`: the main job from nothing to a verified report, and what a kill -9 in the middle does to it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from chargehand.orchestrator.auditing import verify_all
from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.demo_story import Told, print_next, print_story, unanswered_in
from chargehand.orchestrator.cli.demo_workspace import demo_workspace
from chargehand.orchestrator.cli.following import Look, follow
from chargehand.orchestrator.cli.killing import Killer, judge_resumptions, open_verdicts, sarif_findings
from chargehand.orchestrator.cli.laptop import model_line
from chargehand.orchestrator.cli.results import SARIF, check_folder, outcome_of, print_detached, write_files
from chargehand.orchestrator.cli.screens import opened_screen
from chargehand.orchestrator.cli.submit import check_request
from chargehand.orchestrator.cli.terminal import AsJson, answers, notes, plain, print_json
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.laptop import running_laptop, up
from chargehand.orchestrator.laptop.specs import OFFLINE_DELAY_VARIABLE
from chargehand.orchestrator.schema import migrate
from chargehand.orchestrator.settings import Settings, load_settings

GOAL = "Audit this repository, fix what is safe to fix, prove it by its tests, and report"
HOME = ".chargehand"
# Rules answer at once; at this pace a step lasts long enough to be killed in the middle of it.
KILL_DELAY_SECONDS = "0.7"
# The coder asks about a test that no rule mends. Whoever only watches should not have to wait for himself.
ASK_VARIABLE = "CHARGEHAND_ASK_SECONDS"
ASK_SECONDS = "2"

app = typer.Typer()


@app.command()
def demo(
    workspace: Annotated[
        str | None, typer.Option(metavar="PATH|URL", help="A git repository of yours instead of the demo's.")
    ] = None,
    goal: Annotated[str, typer.Option(metavar="GOAL", help="What should be done.")] = GOAL,
    kill: Annotated[
        bool, typer.Option("--kill", help="SIGKILL the worker that holds a triage step, and show what happened.")
    ] = False,
    patience: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="How long an agent's question waits for your answer; default 2, for nobody.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; default .chargehand/demo.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the main job on a demo repository, or on yours, with everything it needs.

    Databases and processes live in CHARGEHAND_HOME (default ./.chargehand) while it runs, and are stopped afterwards.
    What was up before is used and left up.
    """
    # Children and every part of this process read the same variable.
    os.environ.setdefault("CHARGEHAND_HOME", str(Path(HOME).absolute()))
    if kill:
        os.environ.setdefault(OFFLINE_DELAY_VARIABLE, KILL_DELAY_SECONDS)
    if patience is not None:
        os.environ[ASK_VARIABLE] = f"{patience:g}"
    os.environ.setdefault(ASK_VARIABLE, ASK_SECONDS)
    settings = load_settings()
    check_request(goal, None, workspace=workspace, budget=None, settings=settings)
    folder = check_folder(out or settings.home / "demo")
    # One console for all: what is said while the tree is drawn must appear above it.
    console = notes()
    with ExitStack() as stack:
        source = workspace or str(stack.enter_context(demo_workspace()))
        started = stack.enter_context(_laptop(settings, console))
        client = stack.enter_context(Client(settings=settings))
        told = _run(client, goal, source, console=console, folder=folder, kill=kill, stops=started)
        if as_json:
            print_json(told)
        else:
            print_story(answers(), told)
            print_next(console, told, workspace=workspace, home=settings.home)
    if not told.ended_well:
        raise typer.Exit(exits.FAILED)


@contextmanager
def _laptop(settings: Settings, console: Console) -> Iterator[bool]:
    """Everything up while the block runs; whether it was started for it."""
    running = running_laptop(settings.home)
    if running is not None:
        console.print(Text(plain(f"Using what is up in {settings.home} (pid {running.pid}).")), soft_wrap=True)
        yield False
        return
    progress = _Progress(console)
    with up(settings, migrate=migrate, progress=progress) as laptop:
        del laptop
        progress.done()
        console.print(Text(plain(f"Everything is up; model: {model_line(os.environ)}.")), soft_wrap=True)
        yield True
        progress.stopping()


class _Progress:
    """What the laptop does: one changing line in a terminal while it starts, a line each afterwards."""

    def __init__(self, console: Console) -> None:
        """It is starting."""
        self._console = console
        self._status = console.status(Text("starting"), spinner="dots") if console.is_terminal else None
        self._quiet = False
        if self._status is not None:
            self._status.start()

    def __call__(self, line: str) -> None:
        """Show the line."""
        if self._quiet:
            return
        if self._status is not None:
            self._status.update(Text(plain(line)))
        else:
            self._console.print(Text(f"· {plain(line)}", style="dim"), soft_wrap=True)

    def done(self) -> None:
        """It is up; what it says from now on happens while something else is on the screen."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def stopping(self) -> None:
        """What ends now was meant to end."""
        self._quiet = True


def _run(
    client: Client,
    goal: str,
    source: str,
    *,
    console: Console,
    folder: Path,
    kill: bool,
    stops: bool,
) -> Told:
    """Submit, watch, maybe kill, and gather the end; Ctrl-C ends a run whose workers end with us."""
    earlier = sarif_findings(folder / SARIF)
    handle = client.submit(goal, workspace=source)
    killer = Killer(client, handle) if kill else None
    try:
        with opened_screen(console, hint="Ctrl-C ends the demo." if stops else "") as screen:

            def looked(look: Look) -> None:
                if killer is not None and killer.strike(look):
                    screen.say(killer.story)

            follow(client, handle, screen, looked=looked)
    except KeyboardInterrupt:
        if not stops:
            print_detached(console, handle.run_id, why="Detached")
            raise typer.Exit(exits.INTERRUPTED) from None
        handle.cancel("the demo was interrupted")
        console.print(Text("Interrupted: the run is cancelled, and what the demo started is stopped."), soft_wrap=True)
        raise
    outcome = outcome_of(client, handle, files=write_files(handle, folder))
    return Told(
        outcome=outcome,
        audit=verify_all(client, handle.run_id),
        resumptions=judge_resumptions(handle),
        unjudged=open_verdicts(client, handle),
        as_before=None if earlier is None else earlier == sarif_findings(folder / SARIF),
        wanted_kill=kill,
        killed=killer.killed if killer is not None else None,
        kill_story=killer.story if killer is not None else "",
        unanswered=unanswered_in(handle),
    )
