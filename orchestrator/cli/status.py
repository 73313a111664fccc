"""`status`, `result` and `explain`: what runs are, came to and wait for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli.completing import run_names, step_keys
from chargehand.orchestrator.cli.following import take_look
from chargehand.orchestrator.cli.results import check_folder, default_folder
from chargehand.orchestrator.cli.submit import conclude, watch
from chargehand.orchestrator.cli.terminal import (
    STATUS_STYLES,
    AsJson,
    RunName,
    ago,
    answers,
    duration,
    money,
    one_line,
    plain,
    print_json,
    short,
)
from chargehand.orchestrator.cli.tree import draw
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import WaitTimeout
from chargehand.orchestrator.explaining import Explanation
from chargehand.orchestrator.transitions import RUN_ENDINGS

OutFolder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where the files go; default ./chargehand-<run>.")
]

app = typer.Typer()


@app.command()
def status(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", autocompletion=run_names, help="Id of a run, or a part of it.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it until it ends.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="With --follow: stop watching after this.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest runs, or show one with its steps."""
    with Client() as client:
        if run is None:
            _list(client, limit=limit, as_json=as_json)
            return
        handle = client.run(run)
        if follow:
            watch(client, handle, out=None, timeout_seconds=timeout, as_json=as_json)
            return
        look = take_look(client, handle)
        if as_json:
            print_json({"run": look.run, "steps": look.steps, "progress": look.progress, "notes": look.notes})
            return
        console = answers()
        console.print(Text(one_line(look.run.goal, 200)), soft_wrap=True)
        if look.run.forked_from is not None:
            console.print(Text(f"forked from run {short(look.run.forked_from)}", style="dim"))
        console.print(draw(look))
        if look.run.reason:
            console.print(Text(plain(look.run.reason)), soft_wrap=True)


def _list(client: Client, *, limit: int, as_json: bool) -> None:
    runs = client.runs(limit)
    if as_json:
        print_json(runs)
        return
    console = answers()
    if not runs:
        console.print('No runs yet; start one with: chargehand run "GOAL" --workspace PATH', soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("RUN", "STATUS", "STEPS", "COST", "STARTED", "TOOK", "GOAL"):
        table.add_column(
            name, no_wrap=True, overflow="ellipsis", justify="right" if name in ("STEPS", "COST") else "left"
        )
    for run in runs:
        took = duration((run.finished_at - run.created_at).total_seconds()) if run.finished_at else ""
        table.add_row(
            Text(short(run.run_id), style="bold cyan"),
            Text(run.status, style=STATUS_STYLES.get(run.status, "")),
            f"{run.steps_ended}/{run.steps}",
            money(run.spent_microusd),
            ago(run.created_at),
            took,
            Text(one_line(run.goal, 80)),
        )
    console.print(table)


@app.command()
def result(run: RunName, out: OutFolder = None, as_json: AsJson = False) -> None:
    """Show what a run came to and write its files."""
    if out is not None:
        check_folder(out)
    with Client() as client:
        handle = client.run(run)
        view = handle.status()
        if view.status not in RUN_ENDINGS:
            name = short(view.run_id)
            raise WaitTimeout(f"Run {name} is {view.status}; watch it with: chargehand status {name} --follow")
        conclude(client, handle, out=out or default_folder(view.run_id), as_json=as_json)


@app.command()
def explain(
    run: RunName,
    step: Annotated[
        str | None, typer.Argument(metavar="[STEP]", autocompletion=step_keys, help="Only this step, in depth.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say why each unfinished step of a run does not go on, and what would free it."""
    with Client() as client:
        handle = client.run(run)
        view = handle.status()
        if step is not None:
            found = handle.explain_step(step)
        reasons = [] if step is not None else handle.explain()
    if step is not None:
        if as_json:
            print_json(found)
        else:
            _show_step(found)
        return
    if as_json:
        print_json({"run_id": view.run_id, "status": view.status, "reason": view.reason, "steps": dict(reasons)})
        return
    console = answers()
    ended = f"Run {short(view.run_id)} is {view.status}"
    console.print(Text(f"{ended}: {plain(view.reason)}" if view.reason else f"{ended}."), soft_wrap=True)
    if reasons:
        console.print(_pairs(reasons))


def _show_step(found: Explanation) -> None:
    console = answers()
    console.print(Text(f"{one_line(found.step)} is {found.status}: {one_line(found.why)}"), soft_wrap=True)
    if found.details:
        console.print(_pairs(found.details.items()))
    if found.behind:
        console.print(Text("At the bottom of what it waits for:"))
        console.print(_pairs(found.behind))


def _pairs(pairs: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, words in pairs:
        table.add_row(Text(f"  {one_line(name)}", style="bold"), Text(one_line(words)))
    return table
