"""`chargehand replay`: a run done again from its journal, and the first row that comes out otherwise."""

import json

import typer
from rich.text import Text

from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.terminal import AsJson, RunName, answers, one_line, plain, plural, print_json, short
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.replay import Divergence, Replay, ask_workers_to_replay

app = typer.Typer()


@app.command()
def replay(run: RunName, as_json: AsJson = False) -> None:
    """Do a run again from its journal, without models or effects, and name the first divergence.

    Every body is read and written again, every request to a model is built again and compared by its hash, and every
    decision of the graph is made again. Roles are those that the run pinned; tools are those of workers that are
    started here (CHARGEHAND_MODULES). Exit code 1: something came out otherwise.
    """
    with Client() as client:
        run_id = client.run(run).run_id
    found = ask_workers_to_replay(run_id)
    if as_json:
        first = found.first.model_dump(mode="json") if found.first is not None else None
        print_json({**found.model_dump(mode="json"), "first": first})
    else:
        answers().print(Text(plain(_summary(found))), soft_wrap=True)
        if found.first is not None:
            for line in _lines(found.first):
                answers().print(line, soft_wrap=True)
    if found.first is not None:
        raise typer.Exit(exits.FAILED)


def _summary(found: Replay) -> str:
    done = (
        f"{plural(found.rows, 'row')} of {plural(found.streams, 'stream')} in {found.seconds:.2f} s: "
        f"{plural(found.requests, 'request')}, {plural(found.tool_calls, 'tool call')}, "
        f"{plural(found.decisions, 'decision')}"
    )
    if found.erased:
        done += f" ({plural(found.erased, 'stream')} erased, checked by hashes alone)"
    if found.first is None:
        return f"Run {short(found.run_id)} comes out the same, to the byte. {done}."
    return f"Run {short(found.run_id)} comes out otherwise in {plural(len(found.divergences), 'place')}. {done}."


def _lines(first: Divergence) -> list[Text]:
    place = f"{first.step or 'the run'}:{first.seq} {first.kind}, {first.field}"
    return [
        Text.assemble("first     ", (one_line(place), "bold")),
        Text.assemble("expected  ", one_line(_shown(first.expected), 500)),
        Text.assemble("found     ", one_line(_shown(first.found), 500)),
    ]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
