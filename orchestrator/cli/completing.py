"""What a shell is offered behind a command: recent runs and the steps of one, never an error, and never for long."""

import importlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import typer

# A person who presses Tab waits for it, and a server that is away would be waited for much longer.
PATIENCE_SECONDS = 0.6
RECENT_RUNS = 30
# Set by the script that `--show-completion` prints.
_VARIABLE = "_CHARGEHAND_COMPLETE"


def is_asked() -> bool:
    """Whether a shell asks what could come next, instead of a person for a command."""
    return bool(os.environ.get(_VARIABLE))


def run_names(incomplete: str) -> list[tuple[str, str]]:
    """Recent runs whose name begins so, with what they are about."""

    def read(client: Any, short: Callable[[Any], str]) -> list[tuple[str, str]]:
        return [(short(run.run_id), f"{run.status}: {_line(run.goal)}") for run in client.runs(RECENT_RUNS)]

    return _beginning(incomplete, _from_client(read))


def step_keys(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Steps of the run that is named before, whose key begins so."""
    run = ctx.params.get("run")
    if not run:
        return []

    def read(client: Any, short: Callable[[Any], str]) -> list[tuple[str, str]]:
        del short
        return [(step.key, f"{step.status}: {_line(step.title or step.label)}") for step in client.run(run).steps()]

    return _beginning(incomplete, _from_client(read))


def _from_client(read: Callable[[Any, Callable[[Any], str]], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """What is read within the patience of a person; nothing when it takes longer or cannot be read."""
    found: list[tuple[str, str]] = []

    def ask() -> None:
        try:
            terminal = importlib.import_module("chargehand.orchestrator.cli.terminal")
            with importlib.import_module("chargehand.orchestrator.client").Client() as client:
                found.extend(read(client, terminal.short))
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
