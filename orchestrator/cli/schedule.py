"""`chargehand schedule`: runs that are asked for again and again."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from chargehand.memory import procedural
from chargehand.orchestrator import cron
from chargehand.orchestrator.cli.submit import PLAN_FILES, check_request, checked_plan
from chargehand.orchestrator.cli.terminal import AsJson, answers, one_line, plain, print_json, short
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.facts import OnConflict
from chargehand.orchestrator.settings import load_settings

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule.")]

app = typer.Typer()
_schedule = typer.Typer(help="Ask for runs by the clock.", no_args_is_help=True)
app.add_typer(_schedule, name="schedule")


@_schedule.command()
def add(
    expression: Annotated[str, typer.Argument(metavar="CRON", help='For example "0 3 * * 1-5".')],
    goal: Annotated[
        str, typer.Argument(metavar="[GOAL|PLAN]", help="What should be done, or a plan in YAML or JSON.")
    ] = "",
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="A plan of your own, in YAML or JSON.")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the goal's words.")] = None,
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="In which the expression is read.")] = "UTC",
    missed: Annotated[
        cron.Missed, typer.Option(help="What becomes of ticks that no supervisor was there for.")
    ] = "once",
    workspace: Annotated[
        str | None, typer.Option(metavar="PATH|URL", help="Copied at its HEAD at each tick, by a supervisor.")
    ] = None,
    budget: Annotated[str | None, typer.Option(metavar="USD", help="Cap of each run.")] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="Each run ends when this time is over.")
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="At most one run with this key is under way.")
    ] = None,
    on_conflict: Annotated[
        OnConflict | None, typer.Option(help="When the run before is still under way; default: they may overlap.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a run at each tick of a cron expression."""
    settings = load_settings()
    # One word that ends like a file is no goal: with a slip in it, agents would be set to work at each tick.
    if plan is None and goal.endswith(PLAN_FILES) and len(goal.split()) == 1:
        plan, goal = Path(goal), ""
    chosen = checked_plan(plan, settings) if plan is not None else None
    cron.parse(expression, timezone)
    check_request(goal, chosen, workspace=workspace, budget=budget, settings=settings)
    with Client(settings=settings) as client:
        made = client.schedules.add(
            expression,
            goal,
            plan=chosen,
            name=name or (plan.stem if plan is not None else None),
            timezone=timezone,
            missed=missed,
            workspace=workspace,
            budget_usd=budget,
            priority=priority,
            deadline_seconds=deadline,
            concurrency_key=concurrency_key,
            on_conflict=on_conflict,
        )
    if as_json:
        print_json(made)
    else:
        line = f"Schedule {made.name} runs next at {made.next_at:%Y-%m-%d %H:%M:%S} UTC."
        answers().print(Text(plain(line)), soft_wrap=True)


@_schedule.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the schedules, when they run next and what went wrong the last time."""
    with Client() as client:
        found = client.schedules.list()
    if as_json:
        print_json(found)
        return
    if not found:
        answers().print('No schedules yet; make one with: chargehand schedule add "0 3 * * *" "GOAL"', soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("NAME", "CRON", "ZONE", "NEXT (UTC)", "LAST RUN", "GOAL"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for one in found:
        table.add_row(
            Text(one_line(one.name), style="bold cyan"),
            Text(one.cron),
            Text(one.timezone),
            Text("paused", style="yellow") if one.paused else Text(f"{one.next_at:%Y-%m-%d %H:%M:%S}"),
            Text(short(one.last_run) if one.last_run is not None else ""),
            Text(one_line(one.goal, 60)),
        )
    answers().print(table)
    for one in found:
        if one.problem:
            answers().print(Text(plain(f"{one.name}: {one.problem}"), style="yellow"), soft_wrap=True)


@_schedule.command()
def remove(name: Name, as_json: AsJson = False) -> None:
    """Forget a schedule; runs that it has made go on."""
    with Client() as client:
        client.schedules.remove(name)
    _tell(name, changed=True, done="is removed", as_json=as_json)


@_schedule.command()
def pause(name: Name, as_json: AsJson = False) -> None:
    """Make no more runs until it is resumed."""
    with Client() as client:
        changed = client.schedules.pause(name)
    _tell(name, changed=changed, done="is paused", as_json=as_json)


@_schedule.command()
def resume(name: Name, as_json: AsJson = False) -> None:
    """Go on with the next tick; those of the pause are not made up for."""
    with Client() as client:
        changed = client.schedules.resume(name)
    _tell(name, changed=changed, done="goes on", as_json=as_json)


@_schedule.command("run-now")
def run_now(name: Name, as_json: AsJson = False) -> None:
    """Ask for a run of it now, from here; its ticks stay as they are."""
    with Client() as client:
        request = client.schedules.request(name)
        handle = client.submit(
            request.goal,
            plan=request.plan,
            workspace=request.workspace,
            budget_usd=str(request.budget_microusd / 1e6),
            priority=request.priority,
            deadline_seconds=request.deadline_seconds,
            concurrency_key=request.concurrency_key,
            on_conflict=request.on_conflict,
            roles=[
                procedural.parse_role(text, origin=f"role {role!r} of the schedule")
                for role, text in request.role_texts.items()
            ],
        )
    if as_json:
        print_json({"name": name, "run_id": handle.run_id})
    else:
        answers().print(str(handle.run_id), soft_wrap=True)


def _tell(name: str, *, changed: bool, done: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "changed": changed})
        return
    line = f"Schedule {name} {done}." if changed else f"Schedule {name}: nothing changed."
    answers().print(Text(plain(line)), soft_wrap=True)
