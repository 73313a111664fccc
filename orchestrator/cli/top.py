"""`chargehand top`: the fleet as it is, again and again."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.circuits import CircuitView
from chargehand.orchestrator.cli.terminal import (
    STATUS_STYLES,
    AsJson,
    answers,
    duration,
    money,
    one_line,
    plural,
    print_json,
    short,
)
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import Unavailable
from chargehand.orchestrator.fleet_view import FleetView, Pool, RunLine, Wait, look_at_fleet
from chargehand.orchestrator.limit_view import LimitView

# Headings, the first and the last line, and the blank lines between the parts.
_FRAME_LINES = 14

app = typer.Typer()


@app.command()
def top(
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, help="How often to look.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it is in a pipe or a file, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the fleet as it is: pools, runs under way, questions, and what waits longest.

    Runs and steps are those of your tenant; pools, queues, circuits and pauses are everybody's. Ctrl-C ends it.
    """
    with Client() as client:
        view = look_at_fleet(client.services, client.tenant)
        console = answers()
        if as_json:
            print_json(_with_slots(view))
        elif once or not console.is_terminal:
            console.print(draw(view))
        else:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                try:
                    _watch(client, live, view, every_seconds=every)
                except KeyboardInterrupt:
                    return


def _watch(client: Client, live: Live, view: FleetView, *, every_seconds: float) -> None:
    said = ""
    while True:
        live.update(draw(view, height=live.console.size.height, said=said), refresh=True)
        time.sleep(every_seconds)
        try:
            view, said = look_at_fleet(client.services, client.tenant), ""
        except Unavailable as error:
            said = f"{error}; what stands here is of {view.at:%H:%M:%S} UTC"


def _with_slots(view: FleetView) -> dict[str, object]:
    """The view with what it counts from its parts."""
    fields = {name: getattr(view, name) for name in FleetView.__dataclass_fields__}
    pools = [{name: getattr(pool, name) for name in (*Pool.__dataclass_fields__, "slots")} for pool in view.pools]
    return fields | {"pools": pools}


def draw(view: FleetView, *, height: int | None = None, said: str = "") -> RenderableType:
    """The fleet as lines; `height`: of the screen, for which the longest lists are cut."""
    slots = sum(pool.slots for pool in view.pools)
    running = sum(pool.running for pool in view.pools)
    headline = Text.assemble(
        ("Fleet", "bold"),
        f"  {view.at:%Y-%m-%d %H:%M:%S} UTC  {running} of {plural(slots, 'slot')} at work  ",
        f"{plural(view.runs_under_way, 'run')} under way  ",
        (plural(view.questions_open, "open question"), "yellow" if view.questions_open else ""),
    )
    parts: list[RenderableType] = [headline]
    parts += [Text(one_line(one.why, 300), style="yellow") for one in view.paused]
    if not view.has_redis:
        parts.append(Text("Redis does not answer: queues are not known, every circuit is closed.", style="bold red"))
    parts += [Text(_of_circuit(one), style="red") for one in view.circuits if one.state != "closed"]
    parts += [Text(_of_limit(one), style="yellow") for one in view.limits if one.is_short]
    if not slots:
        parts.append(Text("No worker is up, so nothing starts; start them with: chargehand up", style="yellow"))
    if said:
        parts.append(Text(one_line(said, 300), style="bold red"))
    parts += [Text(), _of_pools(view.pools)]
    taken = len(parts) + len(view.pools) + _FRAME_LINES
    room = max(6, height - taken) if height else len(view.runs) + len(view.questions) + len(view.waits)
    questions, waits = view.questions[: max(2, room // 4)], view.waits[: max(2, room // 4)]
    runs = view.runs[: max(2, room - len(questions) - len(waits))]
    if runs:
        parts += [Text(), _of_runs(runs)]
    if view.runs_under_way > len(runs):
        parts.append(Text(f"… and {plural(view.runs_under_way - len(runs), 'older run')}", style="dim"))
    if questions:
        parts += [Text(), _of_waits("ASKED", questions)]
        parts.append(Text("Answer with: chargehand resolve RUN STEP; all: chargehand escalations", style="dim"))
    if waits:
        parts += [Text(), _of_waits("WAITS FOR", waits)]
        parts.append(Text("Why, and what would free it: chargehand explain RUN STEP", style="dim"))
    return Group(*parts)


def _of_circuit(one: CircuitView) -> str:
    left = f" for {duration(one.seconds_left)}" if one.seconds_left else ""
    return f"circuit of {one.kind} {one_line(one.name)} is {one.state}{left}: {one_line(one.why, 200)}"


def _of_limit(one: LimitView) -> str:
    told = [f"{minute.used:,} of {minute.cap:,} {minute.kind} a minute used" for minute in one.minutes]
    if one.held_seconds > 0:
        told.append(f"asked by nobody for {duration(one.held_seconds)}")
    if one.pace_percent < 100:
        told.append(f"at {one.pace_percent}% of its pace after a refusal")
    return f"limit of {one_line(one.family)} at {one_line(one.endpoint)}: {', '.join(told)}"


def _of_pools(pools: Sequence[Pool]) -> Table:
    table = _table(
        ("POOL", "SLOTS", "RUNNING", "READY", "QUEUE", "WORKERS"), right=("SLOTS", "RUNNING", "READY", "QUEUE")
    )
    for pool in pools:
        alive = sum(worker.is_alive for worker in pool.workers)
        silent = len(pool.workers) - alive
        words = f"{alive} alive" if alive else "no process"
        table.add_row(
            Text(one_line(pool.name), style="bold"),
            str(pool.slots),
            str(pool.running),
            str(pool.ready),
            "?" if pool.queued is None else str(pool.queued),
            Text.assemble(words, (f", {silent} silent", "red") if silent else ""),
        )
    return table


def _of_runs(runs: Sequence[RunLine]) -> Table:
    table = _table(
        ("RUN", "STATUS", "STEPS", "RUNNING", "WAITING", "SPENT", "OF", "AGE", "GOAL"),
        right=("STEPS", "RUNNING", "WAITING", "SPENT", "OF"),
    )
    for run in runs:
        table.add_row(
            Text(short(run.run_id), style="bold cyan"),
            Text(run.status, style=STATUS_STYLES.get(run.status, "")),
            f"{run.steps_ended}/{run.steps}",
            str(run.running),
            str(run.waiting),
            money(run.spent_microusd),
            money(run.cap_microusd),
            duration(run.age_seconds),
            Text(one_line(run.goal, 80)),
        )
    return table


def _of_waits(heading: str, waits: Sequence[Wait]) -> Table:
    table = _table((heading, "FOR", "RUN", "STEP", "WHAT"))
    for one in waits:
        table.add_row(
            Text(one.reason, style="yellow"),
            duration(one.seconds),
            Text(short(one.run_id), style="bold cyan"),
            Text(one_line(one.step_key, 40)),
            Text(one_line(one.what, 160)),
        )
    return table


def _table(headings: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", justify="right" if heading in right else "left")
    return table
