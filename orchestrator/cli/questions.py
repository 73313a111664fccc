"""`escalations`, `resolve` and `retry`: what agents ask people, the answers, and work that is done once more."""

import json
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.completing import run_names, step_keys
from chargehand.orchestrator.cli.terminal import (
    AsJson,
    RunName,
    ago,
    ahead,
    answers,
    one_line,
    plain,
    print_json,
    short,
)
from chargehand.orchestrator.cli.values import parse_json
from chargehand.orchestrator.client import AnyRun, Client
from chargehand.orchestrator.errors import NotFound, UserError
from chargehand.orchestrator.facts import SignalReceived, StepWaiting, WaitReason
from chargehand.orchestrator.plan import step_id
from chargehand.orchestrator.views import Escalation

StepName = Annotated[str, typer.Argument(metavar="STEP", autocompletion=step_keys, help="Key of the step.")]
By = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who answers, for the journal [default: you].")]
Only = Annotated[bool, typer.Option("--only", help="Not for other steps that wait for the same cause.")]
RETRY = "retry"
# They hand something on: without it, an agent would be told nothing, or a result be null by mistake.
WITH_BODY = frozenset({"answer", "override"})
# What people answer; a step also waits for colleagues, tasks and the clock.
ASKS: frozenset[WaitReason] = frozenset({"human", "gate", "budget"})
SHORTEST_DIGEST = 4


app = typer.Typer()


@app.command()
def escalations(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", autocompletion=run_names, help="Only of this run.")
    ] = None,
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
        for one in question.guards:
            table.add_row(Text("approves", style="dim"), Text(one_line(f"{one.step}: {one.does}", 200)))
            for name, value in one.arguments.items():
                table.add_row("", Text(plain(f"{name} = {json.dumps(value, ensure_ascii=False)}", 2_000)))
            for key, value in one.inputs.items():
                told = f"reads what {key} gave: {json.dumps(value, ensure_ascii=False)}"
                table.add_row("", Text(plain(told, 2_000)))
            for key, commit in one.commits.items():
                table.add_row("", Text(plain(f"workspace as {key} left it: {commit}", 200)))
            table.add_row("", Text(f"sha256 {one.hash}", style="dim"))
        if question.attached:
            table.add_row(Text("also for", style="dim"), Text(one_line(", ".join(question.attached), 500)))
        if question.expires_at is not None:
            table.add_row(Text("expires", style="dim"), Text(f"{ahead(question.expires_at)}: {question.expires_then}"))
        if question.evidence:
            table.add_row(Text("evidence", style="dim"), Text(one_line(", ".join(question.evidence), 500)))
        choices = "|".join(question.options) or "TEXT"
        command = f"chargehand resolve {short(question.run_id)} {question.step_key} {choices}"
        if "answer" in question.options:
            command += " --text '…'"
        table.add_row(Text("answer", style="dim"), Text(one_line(command), style="cyan"))
        console.print(table)
        console.print()


@app.command()
def resolve(
    run: RunName,
    step: StepName,
    choice: Annotated[str, typer.Argument(metavar="CHOICE", help="One of the options that were offered.")],
    body: Annotated[str | None, typer.Option(metavar="JSON", help="What goes with it, for example a result.")] = None,
    digest: Annotated[
        str | None, typer.Option("--hash", metavar="HEX", help="Only if what is approved begins with this sha256.")
    ] = None,
    by: By = None,
    only: Only = False,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="What goes with it, as plain text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer the question that a step waits for.

    The first answer counts; a later one is told so (exit code 1). It is taken for other steps of the run that wait for
    the same cause too, but for `override`, which is one step's result.
    """
    if text is not None and body is not None:
        raise UserError("--body and --text are both given; give one of them.")
    value = text if text is not None else parse_body(body)
    is_given = text is not None or body is not None
    _answer(run, step, choice, value, digest=digest, by=by, only=only, as_json=as_json, is_given=is_given)


@app.command()
def retry(run: RunName, step: StepName, by: By = None, only: Only = False, as_json: AsJson = False) -> None:
    """Do a step once more, with all that was built on it; or let one that asks for help try again.

    What they gave before is superseded; other finished work is kept. A run that has ended is forked instead.
    """
    with Client(name=by) as client:
        handle = client.run(run)
        asked = any(one.step_key == step and RETRY in one.options for one in client.escalations(handle.run_id))
        added = () if asked else handle.retry(step)
    if asked:
        _answer(run, step, RETRY, None, digest=None, by=by, only=only, as_json=as_json)
    elif as_json:
        print_json({"run_id": handle.run_id, "step": step, "steps": added})
    else:
        answers().print(Text(plain(f"Step {step} is done once more: {', '.join(added)}.")), soft_wrap=True)


def parse_body(body: str | None) -> JsonValue:
    """The JSON that was typed; raises `UserError`."""
    return None if body is None else parse_json(body, option="--body")


def choose(asked: list[Escalation], step: str, choice: str, *, run: str) -> Escalation:
    """The question of that step, if `choice` answers it; raises `NotFound` or `UserError`."""
    question = next((one for one in asked if one.step_key == step), None)
    if question is None:
        waiting = ", ".join(one.step_key for one in asked) or "none"
        raise NotFound(f"Step {step!r} of run {run} waits for no answer; steps that do: {waiting}.")
    if question.options and choice not in question.options:
        raise UserError(f"{choice!r} is no answer to step {step!r}; choose one of: {', '.join(question.options)}.")
    return question


def check_digest(question: Escalation, digest: str | None) -> None:
    """Refuse to approve something else than what was read; raises `UserError`."""
    if digest is None:
        return
    if len(digest) < SHORTEST_DIGEST:
        raise UserError(f"--hash {digest!r} tells none from another; give {SHORTEST_DIGEST} digits of it or more.")
    if any(one.hash.startswith(digest.lower()) for one in question.guards):
        return
    now = ", ".join(one.hash[:12] for one in question.guards) or "nothing"
    raise UserError(f"Step {question.step_key!r} asks for approval of {now}, not of {digest}; look at it again.")


def check_body(question: Escalation, choice: str, *, is_given: bool) -> None:
    """Refuse an answer that says nothing where something is to be said; raises `UserError`."""
    # A gate's own options mean what its author says; what a repair looks like is said by whoever checks it.
    if choice in WITH_BODY and not is_given and question.reason != "gate" and not question.wants_fix:
        what = "the result" if choice == "override" else "what you answer"
        raise UserError(f"{choice!r} needs {what}: add --text '…', or --body JSON (null where there is none).")


def answered_before(handle: AnyRun, step: str) -> SignalReceived | None:
    """The newest answer of somebody to a question of that step; None: nobody has answered one."""
    own = step_id(handle.run_id, step)
    facts = [event.fact for event in handle.events(follow=False) if event.step_id == own]
    asked = {fact.wait_id for fact in facts if isinstance(fact, StepWaiting) and fact.reason in ASKS}
    heard = [fact for fact in facts if isinstance(fact, SignalReceived) and fact.wait_id in asked]
    return heard[-1] if heard else None


def _answer(
    run: str,
    step: str,
    choice: str,
    body: JsonValue,
    *,
    digest: str | None,
    by: str | None,
    only: bool,
    as_json: bool,
    is_given: bool = False,
) -> None:
    with Client(name=by) as client:
        handle = client.run(run)
        asked = client.escalations(handle.run_id, each=True)
        if not any(one.step_key == step for one in asked) and (first := answered_before(handle, step)) is not None:
            _tell_late(handle, step, first, as_json=as_json)
            raise typer.Exit(exits.FAILED)
        question = choose(asked, step, choice, run=short(handle.run_id))
        check_digest(question, digest)
        check_body(question, choice, is_given=is_given)
        answered = client.resolve(question, choice, body, only=only)
    if as_json:
        print_json(
            {
                "run_id": handle.run_id,
                "step": step,
                "choice": choice,
                "taken": answered.first,
                "also_for": answered.with_it,
                "by": client.name,
            }
        )
    elif answered.first:
        also = f", and so do {', '.join(answered.with_it)}" if answered.with_it else ""
        answers().print(Text(plain(f"Step {step} goes on with {choice!r}{also}.")), soft_wrap=True)
    else:
        answers().print(Text(plain(f"Step {step} was answered before or has ended; nothing changed.")), soft_wrap=True)
    if not answered.first:
        raise typer.Exit(exits.FAILED)


def _tell_late(handle: AnyRun, step: str, first: SignalReceived, *, as_json: bool) -> None:
    if as_json:
        told = {"choice": first.choice, "taken": False, "also_for": (), "by": first.by}
        print_json({"run_id": handle.run_id, "step": step, **told})
        return
    by = f" by {first.by}" if first.by else ""
    line = f"Step {step} was answered before: {first.choice!r}{by}; nothing changed."
    answers().print(Text(plain(line)), soft_wrap=True)
