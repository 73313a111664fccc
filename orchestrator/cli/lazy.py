"""A command group that knows its commands' names without importing them: `--help` is there at once."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer.core
import typer.main

from chargehand.orchestrator.cli import completing


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where a command is, and how it is listed."""

    module: str
    """Beside this one; its `app` holds the command."""
    panel: str
    summary: str
    """The first line of the command's docstring."""
    takes: tuple[str, ...] = ()
    """Its first arguments, if they are a `run`, or a `run` and a `step`: a shell is offered those without it."""


class LazyGroup(typer.core.TyperGroup):
    """Lists `entries` and imports the module of the one that is called."""

    entries: Mapping[str, Entry] = {}

    def __init__(self, **attributes: Any) -> None:
        """A placeholder for each entry is enough for lists and suggestions."""
        super().__init__(**attributes)
        for name, entry in self.entries.items():
            self.add_command(
                typer.core.TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel, callback=None), name
            )

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the entries, not of the alphabet."""
        del ctx
        return list(self.entries)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """The command that is called, imported."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        takes = self.entries[name].takes if name is not None and name in self.entries else ()
        has_options = completing.is_of_an_option() or any(word.startswith("-") for word in rest)
        if takes and completing.is_asked() and not has_options:
            return name, completing.stand_in(takes), rest
        return name, load(self.entries, name) if name is not None else placeholder, rest


def load(entries: Mapping[str, Entry], name: str) -> Any:
    """The real command of that name."""
    module = importlib.import_module(f"chargehand.orchestrator.cli.{entries[name].module}")
    return typer.main.get_group(module.app).commands[name]
