"""`chargehand erase`: take what a run or a conversation said out of the journal and out of every copy."""

from typing import Annotated

import typer
from rich.text import Text

from chargehand.orchestrator.cli.completing import run_names
from chargehand.orchestrator.cli.terminal import AsJson, answers, one_line, plural, print_json, short
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import UserError

app = typer.Typer()


@app.command()
def erase(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", autocompletion=run_names, help="A run that has ended.")
    ] = None,
    conversation: Annotated[str | None, typer.Option(metavar="NAME", help="Instead: every run of it.")] = None,
    later: Annotated[
        bool, typer.Option("--later", help="With later runs of the conversation that were shown it.")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Also what is remembered of it, notes of yours among it; repeatable."),
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="WORDS", help="Also every memory with these words in it; repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; it cannot be undone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase what a run said, and every copy of it.

    With its forks, what was remembered of it and its files; the chains still verify.

    Ids, times, costs and how each step ended stay. Needs a database user who may act for all tenants.
    """
    if not yes:
        raise UserError("Erasing cannot be undone; add --yes to do it.")
    with Client() as client:
        erased = client.erase(
            run=run, conversation_id=conversation, later=later, sources=source or (), subjects=subject or ()
        )
    if as_json:
        print_json(erased)
        return
    rows, files = plural(erased.rows, "row"), plural(erased.artifacts, "file")
    memories = "1 memory" if erased.memories == 1 else f"{erased.memories:,} memories"
    said = f"Erased {plural(len(erased.runs), 'run')}: {rows} of the journal, {memories}, {files}."
    answers().print(Text(said), soft_wrap=True)
    for run_id in erased.shown_to:
        line = f"Run {short(run_id)} was shown what they said, or recalled it; erase it too if it repeats that."
        answers().print(Text(line, style="yellow"), soft_wrap=True)
    if erased.artifacts_left:
        files = plural(len(erased.artifacts_left), "file")
        line = f"{files} may be those of a step that is running: erase once more when it has ended."
        answers().print(Text(line, style="yellow"), soft_wrap=True)
    if erased.conversations_left:
        names = one_line(", ".join(erased.conversations_left))
        line = f"Redis did not answer and still holds {names}, which nobody is shown: erase once more later."
        answers().print(Text(line, style="yellow"), soft_wrap=True)
