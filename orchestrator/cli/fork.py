"""`chargehand fork`: a run from where another one stood, with a role, a model or an input changed."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from chargehand.memory import procedural
from chargehand.memory.procedural import Role
from chargehand.orchestrator.cli.completing import step_keys
from chargehand.orchestrator.cli.results import check_folder
from chargehand.orchestrator.cli.submit import watch
from chargehand.orchestrator.cli.terminal import AsJson, RunName, answers, notes, plain, plural, print_json, short
from chargehand.orchestrator.cli.values import parse_pairs
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.requests import check_instruction, check_model, microusd

app = typer.Typer()


@app.command()
def fork(
    run: RunName,
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="STEP[:TURN]",
            autocompletion=step_keys,
            help="The step to do anew; of an agent, the first turn to do anew.",
        ),
    ],
    role_file: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Another version of one of the run's roles; repeatable.")
    ] = None,
    tier: Annotated[
        str | None, typer.Option(help="Another size of model for the step: small, medium or large.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A model by its name for the step.")] = None,
    instruction: Annotated[str | None, typer.Option(metavar="TEXT", help="Another instruction for the step.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=JSON", help="An argument of the step; repeatable.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="USD", help="Cap of what the fork may cost; default: the old run's.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="A second run with this key is the first one.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the run's id and do not wait.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Stop watching after this; the run goes on.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; default ./chargehand-<run>.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a run from where another one stood, with something changed.

    The step, and all that was built on it, is done anew and paid for. Everything else is taken over as it ended. The
    old run is not touched, and may still be under way.
    """
    if budget is not None:
        microusd(budget)
    if out is not None:
        check_folder(out)
    check_model(tier, model)
    roles = [_role(file) for file in role_file or []]
    arguments = parse_pairs(set_ or [], option="--set")
    with Client() as client:
        handle = client.fork(
            run,
            at,
            roles=roles,
            instruction=None if instruction is None else check_instruction(instruction),
            arguments=arguments,
            tier=tier,
            model=model,
            budget_usd=budget,
            idempotency_key=idempotency_key,
        )
        if detach:
            if as_json:
                view = handle.status()
                print_json({"run_id": handle.run_id, "status": view.status, "forked_from": view.forked_from})
            else:
                answers().print(str(handle.run_id), soft_wrap=True)
            return
        steps = handle.steps()
        done = sum(step.status in {"succeeded", "failed"} and step.epoch == 0 for step in steps)
        line = f"Run {short(handle.run_id)} takes over {plural(done, 'step')} of {len(steps)}."
        notes().print(Text(plain(line), style="dim"), soft_wrap=True)
        watch(client, handle, out=out, timeout_seconds=timeout, as_json=as_json)


def _role(file: Path) -> Role:
    try:
        text = procedural.read_text(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); name the file of a role.") from error
    return procedural.parse_role(text, origin=str(file))
