"""`circuits` and `switches`: what the fleet leaves alone by itself, and what people have paused for all of it."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from chargehand.memory import procedural
from chargehand.orchestrator.cli.terminal import AsJson, ago, answers, notes, one_line, plain, print_json
from chargehand.orchestrator.errors import Unavailable, UserError
from chargehand.orchestrator.fleet import Fleet
from chargehand.orchestrator.offers import ask_workers
from chargehand.orchestrator.prices import PRICES
from chargehand.orchestrator.settings import load_settings
from chargehand.orchestrator.switches import Kind

Role = Annotated[str | None, typer.Option(metavar="NAME", help="Instead of a run: this role, for all tenants.")]
ToolName = Annotated[str | None, typer.Option("--tool", metavar="NAME", help="Instead of a run: this tool.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Instead of a run: this model.")]
Everything = Annotated[bool, typer.Option("--all", help="Instead of a run: the whole fleet.")]

app = typer.Typer()


@app.command()
def circuits(as_json: AsJson = False) -> None:
    """List the circuits around tools and models, and why they are open."""
    with Fleet() as fleet:
        found = fleet.circuits()
    if as_json:
        print_json(found)
        return
    if not found:
        answers().print("No tool or model was used within a quarter of an hour; every circuit is closed.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("KIND", "NAME", "STATE", "FAILED", "WHY"):
        table.add_column(heading, no_wrap=heading != "WHY")
    for one in found:
        state = f"open for {one.seconds_left:.0f} s" if one.state == "open" else one.state
        table.add_row(
            one.kind,
            Text(one_line(one.name), style="bold"),
            Text(state, style="" if one.state == "closed" else "red"),
            f"{one.failures} of {one.calls}",
            Text(one_line(one.why, 200)),
        )
    answers().print(table)


@app.command()
def switches(
    history: Annotated[bool, typer.Option("--history", help="Who paused and resumed what, the newest first.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the roles, tools and models that are paused for the whole fleet."""
    with Fleet() as fleet:
        changes = fleet.changes() if history else []
        paused = fleet.switches() if not history else []
    if as_json:
        print_json(changes if history else paused)
        return
    for change in changes:
        reason = f": {change.reason}" if change.reason else ""
        line = f"{change.at:%Y-%m-%d %H:%M:%S} {change.change} {change.kind} {change.name} by {change.by}{reason}"
        answers().print(Text(plain(line)), soft_wrap=True)
    for one in paused:
        answers().print(Text(plain(f"{one.why} ({ago(one.since)})")), soft_wrap=True)
    if not changes and not paused:
        answers().print("Nothing was ever paused." if history else "Nothing is paused.")


def chosen_switch(
    run: str | None, *, role: str | None, tool: str | None, model: str | None, everything: bool
) -> tuple[Kind, str] | None:
    """The switch that was named; None: a run was. Raises `UserError` unless exactly one thing was."""
    named: list[tuple[Kind, str]] = [("all", "")] if everything else []
    for kind, name in (("role", role), ("tool", tool), ("model", model)):
        if name is not None:
            named.append((kind, name))  # type: ignore[arg-type]
    if len(named) + (run is not None) != 1:
        raise UserError("Name one thing: a run, --role, --tool, --model, or --all.")
    return named[0] if named else None


def flip(kind: Kind, name: str, *, pause: bool, reason: str, as_json: bool) -> None:
    """Pause or resume it for the whole fleet, and say so."""
    with Fleet() as fleet:
        changed = fleet.pause(kind, name, reason=reason) if pause else fleet.resume(kind, name, reason=reason)
    if as_json:
        print_json({"kind": kind, "name": name, "paused": pause, "changed": changed})
        return
    what = "The whole fleet" if kind == "all" else f"{kind.capitalize()} {name}"
    state = "is paused" if pause else "goes on"
    line = f"{what} {state}." if changed else f"{what} {'is paused' if pause else 'is not paused'} already."
    answers().print(
        Text(plain(line if changed or pause else f"{what} is not paused; nothing changed.")), soft_wrap=True
    )
    if pause and kind != "all":
        _doubt(kind, name.strip())


def _doubt(kind: Kind, name: str) -> None:
    """Say when nothing of this name is known here. It is paused all the same: workers elsewhere may know more."""
    try:
        known = set(_known(kind))
    except (Unavailable, procedural.InvalidRole):
        return
    if known and name not in known and name not in _used(kind):
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}."
        line = f"Nothing that is set up here has a {kind} {name!r}; {hint}"
        notes().print(Text(plain(line), style="yellow"), soft_wrap=True)


def _known(kind: Kind) -> Iterable[str]:
    settings = load_settings()
    if kind == "tool":
        return ask_workers().tools
    if kind == "role":
        return procedural.load_roles(*settings.role_folders)
    return (settings.small_model, settings.medium_model, settings.large_model, *settings.role_models.values())


def _used(kind: Kind) -> set[str]:
    """Names that are no slip though nothing here is set to use them: a server may answer under its model's own name."""
    priced = set(PRICES) if kind == "model" else set()
    try:
        with Fleet() as fleet:
            return priced | {one.name for one in fleet.circuits() if one.kind == kind}
    except Unavailable:
        return priced
