"""`cancel`, `pause`, `resume`, `budget` and `tell`: a word to a run that goes on."""

from typing import Annotated

import typer
from rich.text import Text

from chargehand.orchestrator.cli.completing import run_names
from chargehand.orchestrator.cli.fleet import Everything, Model, Role, ToolName, chosen_switch, flip
from chargehand.orchestrator.cli.terminal import AsJson, RunName, answers, plain, print_json, short
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.requests import check_message, microusd

SomeRun = Annotated[
    str | None, typer.Argument(metavar="[RUN]", autocompletion=run_names, help="Id of the run, or a part of it.")
]
Reason = Annotated[str, typer.Option(help="Why, for the journal.")]

app = typer.Typer()


@app.command()
def cancel(run: RunName, reason: Reason = "cancelled by its owner", as_json: AsJson = False) -> None:
    """End a run now.

    A call of a model that is in flight stays charged: nobody knows whether it will be paid for.
    """
    with Client() as client:
        handle = client.run(run)
        _tell(handle, changed=handle.cancel(reason), done="is cancelled", as_json=as_json)


@app.command()
def pause(
    run: SomeRun = None,
    role: Role = None,
    tool: ToolName = None,
    model: Model = None,
    everything: Everything = False,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Start nothing new in a run and stop its steps at their next turn.

    Or, for all runs of all tenants, those of a role, a tool, a model, or the whole fleet.
    """
    switch = chosen_switch(run, role=role, tool=tool, model=model, everything=everything)
    if switch is not None:
        flip(*switch, pause=True, reason=reason, as_json=as_json)
        return
    with Client() as client:
        handle = client.run(str(run))
        _tell(handle, changed=handle.pause(reason), done="is paused", as_json=as_json)


@app.command()
def resume(
    run: SomeRun = None,
    role: Role = None,
    tool: ToolName = None,
    model: Model = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Let a paused run go on, or what was paused for the whole fleet."""
    switch = chosen_switch(run, role=role, tool=tool, model=model, everything=everything)
    if switch is not None:
        flip(*switch, pause=False, reason="", as_json=as_json)
        return
    with Client() as client:
        handle = client.run(str(run))
        _tell(handle, changed=handle.resume(), done="goes on", as_json=as_json)


@app.command()
def budget(
    run: RunName,
    usd: Annotated[str, typer.Argument(metavar="USD", help="What it may spend all in all, in dollars.")],
    as_json: AsJson = False,
) -> None:
    """Let a run spend more.

    Steps that wait because the budget is used up go on by themselves. A budget is never lowered.
    """
    microusd(usd)
    with Client() as client:
        handle = client.run(run)
        _tell(handle, changed=handle.raise_budget(usd), done=f"may spend ${usd}", as_json=as_json)


@app.command()
def tell(
    run: RunName,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What its agents should know.")],
    as_json: AsJson = False,
) -> None:
    """Leave a message for the agents of a run.

    Agents that start later read it; it cannot give them tools that their role does not have.
    """
    check_message(message)
    with Client() as client:
        handle = client.run(run)
        handle.tell(message)
        _tell(handle, changed=True, done="has your message", as_json=as_json)


def _tell(handle: RunHandle, *, changed: bool, done: str, as_json: bool) -> None:
    status = handle.status().status
    if as_json:
        print_json({"run_id": handle.run_id, "changed": changed, "status": status})
        return
    name = short(handle.run_id)
    line = f"Run {name} {done}." if changed else f"Run {name} is {status} already; nothing changed."
    answers().print(Text(plain(line)), soft_wrap=True)
