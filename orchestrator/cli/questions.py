"""`escalations`, `resolve` and `retry`: what agents ask people, and the answers."""

import json
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.terminal import AsJson, RunName, ago, answers, one_line, plain, print_json, short
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.views import Escalation

StepName = Annotated[str, typer.Argument(metavar="STEP", help="Key of the step.")]
RETRY = "retry"

app = typer.Typer()


@app.command()
def escalations(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only of this run.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what agents ask people."""
    with Client() as client:
        asked = client.escalations(client.run(run).run_id if run is not None else None)
    if as_json:
        print_json(asked)
        return
    console = answers()
    if not asked:
        console.print("Nobody asks anything.")
        return
    for question in asked:
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("step", style="dim"), Text(f"{short(question.run_id)} {question.step_key}", style="bold"))
        table.add_row(Text("asked", style="dim"), Text(f"{ago(question.asked_at)} ({question.reason})"))
        table.add_row(Text("question", style="dim"), Text(plain(question.question, 2_000)))
        if question.evidence:
            table.add_row(Text("evidence", style="dim"), Text(one_line(", ".join(question.evidence), 500)))
        choices = "|".join(question.options) or "TEXT"
        command = f"chargehand resolve {short(question.run_id)} {question.step_key} {choices}"
        table.add_row(Text("answer", style="dim"), Text(one_line(command), style="cyan"))
        console.print(table)
        console.print()


@app.command()
def resolve(
    run: RunName,
    step: StepName,
    choice: Annotated[str, typer.Argument(metavar="CHOICE", help="One of the options that were offered.")],
    body: Annotated[str | None, typer.Option(metavar="JSON", help="What goes with it, for example a result.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer the question that a step waits for.

    The first answer counts; a later one is told so (exit code 1).
    """
    _answer(run, step, choice, parse_body(body), as_json=as_json)


@app.command()
def retry(run: RunName, step: StepName, as_json: AsJson = False) -> None:
    """Let a step that asks for help try again."""
    _answer(run, step, RETRY, None, as_json=as_json)


def parse_body(body: str | None) -> JsonValue:
    """The JSON that was typed; raises `UserError`."""
    if body is None:
        return None
    try:
        value: JsonValue = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        shown = one_line(body, 80)
        raise UserError(f"--body {shown!r} is not JSON ({error}); quote it, for example --body '\"text\"'.") from error
    return value


def _refuse(constant: str) -> JsonValue:
    # Python reads NaN and Infinity, Postgres does not keep them.
    raise ValueError(f"{constant} is not JSON")


def choose(asked: list[Escalation], step: str, choice: str, *, run: str) -> Escalation:
    """The question of that step, if `choice` answers it; raises `NotFound` or `UserError`."""
    question = next((one for one in asked if one.step_key == step), None)
    if question is None:
        waiting = ", ".join(one.step_key for one in asked) or "none"
        raise NotFound(f"Step {step!r} of run {run} waits for no answer; steps that do: {waiting}.")
    if question.options and choice not in question.options:
        raise UserError(f"{choice!r} is no answer to step {step!r}; choose one of: {', '.join(question.options)}.")
    return question


def _answer(run: str, step: str, choice: str, body: JsonValue, *, as_json: bool) -> None:
    with Client() as client:
        handle = client.run(run)
        question = choose(client.escalations(handle.run_id), step, choice, run=short(handle.run_id))
        first = client.answer(question, choice, body)
    if as_json:
        print_json({"run_id": handle.run_id, "step": step, "choice": choice, "taken": first})
    elif first:
        answers().print(Text(plain(f"Step {step} goes on with {choice!r}.")), soft_wrap=True)
    else:
        answers().print(Text(plain(f"Step {step} was answered before or has ended; nothing changed.")), soft_wrap=True)
    if not first:
        raise typer.Exit(exits.FAILED)
