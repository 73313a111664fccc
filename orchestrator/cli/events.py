"""`chargehand logs`: the journal of a run as lines."""

import json
from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.completing import step_keys
from chargehand.orchestrator.cli.terminal import AsJson, RunName, answers, jsonable, one_line
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.gist import gist
from chargehand.orchestrator.views import Event

BAD_KINDS = frozenset({"model.failed", "call.abandoned", "breaker.tripped", "step.recovered"})
STEP_WIDTH = 20
KIND_WIDTH = 16

app = typer.Typer()


@app.command()
def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    step: Annotated[
        str | None, typer.Option(metavar="STEP", autocompletion=step_keys, help="Only of the step with this key.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what happened in a run, fact by fact.

    Each line is a row of the journal; with --json, one object a line, whole.
    """
    console = answers()
    with Client() as client:
        handle = client.run(run)
        keys: dict[UUID, str] = {}
        try:
            for event in handle.events(follow=follow):
                name = _name(handle, event, keys)
                if step is not None and name != step:
                    continue
                if as_json:
                    console.file.write(json.dumps(document(event, name), default=jsonable) + "\n")
                    console.file.flush()
                else:
                    console.print(line_of(event, name), soft_wrap=True)
        except KeyboardInterrupt:
            raise typer.Exit(exits.INTERRUPTED) from None


def _name(handle: RunHandle, event: Event, keys: dict[UUID, str]) -> str:
    """The key of the event's step; the graph may have grown since the last look."""
    if event.step_id is None:
        return ""
    if event.step_id not in keys:
        keys.update((step.step_id, step.key) for step in handle.steps())
    return keys.get(event.step_id, str(event.step_id))


def document(event: Event, step_key: str) -> Mapping[str, object]:
    """The event for a program."""
    return {
        "run_id": event.run_id,
        "step": step_key or None,
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "fact": event.fact.model_dump(mode="json") if event.fact is not None else None,
    }


def line_of(event: Event, step_key: str) -> Text:
    """The event for a person."""
    time = event.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    said = gist(event.fact) if event.fact is not None else "(erased)"
    return Text.assemble(
        (f"{time} ", "dim"),
        (f"{one_line(step_key, STEP_WIDTH):<{STEP_WIDTH}} ", "bold"),
        (f"{event.kind:<{KIND_WIDTH}} ", "red" if event.kind in BAD_KINDS else "cyan"),
        one_line(said, 400),
    )
