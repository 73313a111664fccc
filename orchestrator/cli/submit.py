"""`chargehand run`: check the request, submit it, watch it, show and write the result."""

import sys
from pathlib import Path
from typing import Annotated

import redis
import typer
from rich.text import Text

from chargehand.memory import keyspace, procedural
from chargehand.memory.sources import is_remote, locate
from chargehand.orchestrator import endpoints
from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.following import follow
from chargehand.orchestrator.cli.results import (
    PATCH,
    check_folder,
    default_folder,
    outcome_of,
    print_detached,
    print_outcome,
    write_files,
)
from chargehand.orchestrator.cli.screens import opened_screen
from chargehand.orchestrator.cli.terminal import AsJson, answers, notes, one_line, plain, print_json, short
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.consolidating import budget_of
from chargehand.orchestrator.errors import InvalidWorkspace, Unavailable, UserError
from chargehand.orchestrator.facts import OnBudget, OnConflict
from chargehand.orchestrator.plan import Plan
from chargehand.orchestrator.plan_files import load_plan
from chargehand.orchestrator.requests import (
    MAX_GOAL_BYTES,
    MAX_REPLANS,
    check_concurrency,
    check_conversation,
    check_goal,
    check_model,
    microusd,
)
from chargehand.orchestrator.settings import Settings, load_settings

# How the name of a plan ends.
PLAN_FILES = (".yaml", ".yml", ".json")

app = typer.Typer()


@app.command()
def run(
    goal: Annotated[
        str,
        typer.Argument(metavar="[GOAL]", help="What should be done, in your words; - reads it from standard input."),
    ] = "",
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A plan of your own instead, in YAML or JSON.")
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(metavar="PATH|URL", help="The git repository to work on, at its HEAD.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="USD", help="Cap of what models may cost, for example 0.50.")
    ] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="A second run with this key is the first one.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="The run ends when this time is over.")
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="At most one run with this key is under way.")
    ] = None,
    on_conflict: Annotated[
        OnConflict, typer.Option(help="What becomes of this run when another one has the key.")
    ] = "queue",
    conversation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Go on with a conversation: agents see its earlier runs."),
    ] = None,
    replans: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=MAX_REPLANS,
            help="How often the plan may be changed when a step has failed; default 3 for a goal, 0 for a plan.",
        ),
    ] = None,
    on_budget: Annotated[
        OnBudget, typer.Option(help="When the budget is used up: the run fails, or asks a person for more.")
    ] = "fail",
    max_calls: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Cap of how often models may be asked in the run.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Cap of the tokens that models may read and write in the run."),
    ] = None,
    consolidate: Annotated[
        str | None,
        typer.Option(metavar="USD", help="Keep in memory what the run has taught, for at most this; 0: nothing."),
    ] = None,
    tier: Annotated[
        str | None, typer.Option(metavar="TIER", help="Size of model for its agents: small, medium or large.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A model by its name for its agents.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the run's id and do not wait.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Stop watching after this; the run goes on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; default ./chargehand-<run>.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a goal (or a plan) to the agents and watch them until the result is there.

    Ctrl-C stops the watching, not the run.
    """
    settings = load_settings()
    if goal == "-":
        # Reading somewhat more than is allowed is enough to refuse it.
        goal = sys.stdin.buffer.read(MAX_GOAL_BYTES * 2).decode("utf-8", "surrogateescape")
    if plan is None and goal.endswith(PLAN_FILES) and Path(goal).is_file():
        raise UserError(f"{one_line(goal, 100)!r} is a file and no goal; run the plan in it with --plan FILE.")
    chosen = checked_plan(plan, settings) if plan is not None else None
    check_concurrency(concurrency_key, on_conflict)
    check_conversation(conversation)
    check_model(tier, model)
    budget_of(consolidate, settings)
    check_request(goal, chosen, workspace=workspace, budget=budget, settings=settings)
    if out is not None:
        check_folder(out)
    if workspace is not None and not is_remote(workspace) and (found := locate(workspace)).subdirectory:
        words = f"{workspace} is a folder of the repository {found.work_tree}, and agents get all of it."
        notes().print(Text(plain(f"{words} To keep to the folder, say so in the goal.")), soft_wrap=True)
    with Client(settings=settings) as client:
        handle = client.submit(
            goal,
            plan=chosen,
            workspace=workspace,
            budget_usd=budget,
            idempotency_key=idempotency_key,
            priority=priority,
            deadline_seconds=deadline,
            conversation_id=conversation,
            concurrency_key=concurrency_key,
            on_conflict=on_conflict,
            replans=replans,
            on_budget=on_budget,
            max_calls=max_calls,
            max_tokens=max_tokens,
            consolidate_usd=consolidate,
            tier=tier,
            model=model,
        )
        if not broker_answers(settings):
            notes().print(Text("Accepted; the broker does not answer, and the run starts when it is back."))
        if detach:
            if as_json:
                print_json({"run_id": handle.run_id, "status": handle.status().status})
            else:
                answers().print(str(handle.run_id), soft_wrap=True)
            return
        watch(client, handle, out=out, timeout_seconds=timeout, as_json=as_json)


def check_request(
    goal: str, plan: Plan | None, *, workspace: str | None, budget: str | None, settings: Settings
) -> None:
    """Refuse what is wrong before anything is asked of a server, so that the answer does not depend on one."""
    if plan is None:
        check_goal(goal)
    microusd(budget if budget is not None else settings.default_budget_usd)
    if workspace is not None:
        check_workspace(workspace)


def check_workspace(workspace: str) -> None:
    """Raise unless the path leads to a git repository; a URL is asked when it is cloned."""
    if not workspace.strip():
        raise InvalidWorkspace("--workspace is empty; give the path or URL of a git repository.")
    if "\0" in workspace:
        raise InvalidWorkspace(f"Workspace {one_line(workspace, 100)!r} is no path; give that of a git repository.")
    if not is_remote(workspace):
        locate(workspace)


def checked_plan(file: Path, settings: Settings) -> Plan:
    """The plan in a YAML or JSON file; raises `InvalidPlan` with the first thing that is wrong."""
    return load_plan(file, roles=procedural.load_roles(*settings.role_folders).keys())


def broker_answers(settings: Settings) -> bool:
    """Whether somebody is there to ring for the supervisor."""
    try:
        url = endpoints.redis_url(settings)
        with keyspace.connect(url, connect_timeout_seconds=1.0, socket_timeout_seconds=1.0, retries=0) as client:
            return bool(client.ping())
    except (Unavailable, redis.RedisError):
        return False


def watch(client: Client, handle: RunHandle, *, out: Path | None, timeout_seconds: float | None, as_json: bool) -> None:
    """Show the run until it ends, then its result; Ctrl-C detaches. Ends the command unless the run succeeded."""
    console = notes()
    hint = "Ctrl-C stops the watching, not the run."
    try:
        with opened_screen(console, hint=hint) as screen:
            follow(client, handle, screen, timeout_seconds=timeout_seconds)
    except KeyboardInterrupt:
        print_detached(console, handle.run_id, why="Detached")
        raise typer.Exit(exits.INTERRUPTED) from None
    conclude(client, handle, out=out or default_folder(handle.run_id), as_json=as_json)


def conclude(client: Client, handle: RunHandle, *, out: Path, as_json: bool) -> None:
    """Write the files of a run that has ended and show what it came to; ends the command unless it succeeded."""
    outcome = outcome_of(client, handle, files=write_files(handle, out))
    if as_json:
        print_json(outcome)
    else:
        print_outcome(answers(), outcome)
        patch = outcome.files.get(PATCH)
        if patch is not None and Path(patch).stat().st_size > 0:
            hint = f"Apply the changes to your tree with: chargehand apply {short(handle.run_id)}"
            notes().print(Text(plain(hint), style="dim"), soft_wrap=True)
    if outcome.status != "succeeded":
        raise typer.Exit(exits.FAILED)
