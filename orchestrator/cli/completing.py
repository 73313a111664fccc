"""What a shell is offered behind a command: recent runs and the steps of one, never an error, and never for long."""

import importlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
import typer.main

# A person who presses Tab waits for it, and a server that is away would be waited for much longer.
PATIENCE_SECONDS = 0.6
# Set by the script that `--show-completion` prints.
_VARIABLE = "_CHARGEHAND_COMPLETE"


def is_asked() -> bool:
    """Whether a shell asks what could come next, instead of a person for a command."""
    return bool(os.environ.get(_VARIABLE))


def is_of_an_option() -> bool:
    """Whether the word that is being typed begins like an option."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return line.rpartition(" ")[2].startswith("-")


def run_names(incomplete: str) -> list[tuple[str, str]]:
    """Recent runs whose name begins so, with what they are about."""
    return _beginning(incomplete, _within_patience(lambda offering: offering.recent_runs()))


def step_keys(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Steps of the run that is named before, whose key begins so."""
    run = ctx.params.get("run")
    return _beginning(incomplete, _within_patience(lambda offering: offering.steps_of(str(run)))) if run else []


def stand_in(takes: tuple[str, ...]) -> Any:
    """A command that takes a run, or a run and a step, for a shell that asks about those."""
    app = typer.Typer()
    app.command("step" if "step" in takes else "run")(_of_step if "step" in takes else _of_run)
    return typer.main.get_command(app)


def _of_run(run: Annotated[str, typer.Argument(autocompletion=run_names)]) -> None:
    """Never called."""


def _of_step(
    run: Annotated[str, typer.Argument(autocompletion=run_names)],
    step: Annotated[str, typer.Argument(autocompletion=step_keys)],
) -> None:
    """Never called."""


def _within_patience(read: Callable[[Any], list[tuple[str, str, str]]]) -> list[tuple[str, str]]:
    """What is read within the patience of a person; nothing when it takes longer or cannot be read."""
    found: list[tuple[str, str]] = []

    def ask() -> None:
        try:
            offering = importlib.import_module("chargehand.orchestrator.cli.offering")
            found.extend((name, f"{status}: {_line(about)}") for name, status, about in read(offering))
        except Exception:  # noqa: BLE001 - a line of an error would be typed into the command
            found.clear()

    # The process ends without it: nothing is written that could be cut off.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    return list(found)


def _beginning(incomplete: str, offers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def _line(text: str) -> str:
    # Of another's text: no control characters, and no colons that a shell would split at.
    return " ".join("".join(character for character in text[:200] if character.isprintable()).split())[:60]
