"""`chargehand plan`: is a plan right, what could be better, and how does it look."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from chargehand.memory import procedural
from chargehand.orchestrator import views
from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.terminal import AsJson, answers, notes, one_line, plain, plural, print_json, short
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.drawing.figure import Figure, figure_of_plan, figure_of_run
from chargehand.orchestrator.drawing.mermaid import draw_mermaid
from chargehand.orchestrator.drawing.outline import draw_text
from chargehand.orchestrator.drawing.svg import draw_svg
from chargehand.orchestrator.errors import InvalidPlan, Unavailable, UserError
from chargehand.orchestrator.offers import Offers, ask_workers
from chargehand.orchestrator.plan_files import load_plan
from chargehand.orchestrator.plan_hints import Hint, hints_of
from chargehand.orchestrator.settings import load_settings

# A name that ends like this, or has a folder in it, is that of a file, whether it is there or not.
FILE_ENDINGS = {".yaml", ".yml", ".json"}

app = typer.Typer()
_plan = typer.Typer(help="Check or draw a plan.", no_args_is_help=True)
app.add_typer(_plan, name="plan")


class Format(StrEnum):
    """How a plan is drawn."""

    TEXT = "text"
    MERMAID = "mermaid"
    SVG = "svg"


@_plan.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan in YAML or JSON.")], as_json: AsJson = False
) -> None:
    """Say whether a plan can run, and what in it could be simpler, cheaper or clearer.

    Hints do not make it wrong. Scripts and tools are those of workers that are started here: CHARGEHAND_MODULES names
    the modules of your own.
    """
    roles = procedural.load_roles(*load_settings().role_folders)
    try:
        plan = load_plan(file, roles=roles.keys())
    except InvalidPlan as error:
        if not as_json:
            raise
        print_json({"file": file, "ok": False, "problem": str(error), "steps": None, "hints": []})
        raise typer.Exit(exits.WRONG_REQUEST) from error
    hints = hints_of(plan, roles=roles, offers=_offers())
    if as_json:
        print_json({"file": file, "ok": True, "problem": None, "steps": len(plan.steps), "hints": hints})
        return
    console = answers()
    verdict = f"{file}: {plural(len(plan.steps), 'step')}, can run"
    console.print(Text(plain(f"{verdict}; {plural(len(hints), 'hint')}" if hints else verdict)), soft_wrap=True)
    for hint in hints:
        console.print(_line(hint), soft_wrap=True)


def _offers() -> Offers | None:
    try:
        return ask_workers()
    except Unavailable as error:
        why = f"{one_line(str(error), 300)} There are no hints about scripts and tools."
        notes().print(Text(why, style="yellow"), soft_wrap=True)
        return None


def _line(hint: Hint) -> Text:
    return Text.assemble(
        "  ", (one_line(", ".join(hint.steps)), "bold"), ": ", one_line(hint.text), (f" [{hint.rule}]", "dim")
    )


@_plan.command()
def show(
    what: Annotated[str, typer.Argument(metavar="FILE|RUN", help="A plan in YAML or JSON, or a run.")],
    form: Annotated[Format, typer.Option("--format", "-f", help="How to draw it.")] = Format.TEXT,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a plan, or a run with the states of its steps: as a tree, for Mermaid, or as an SVG image."""
    if Path(what).is_file() or "/" in what or Path(what).suffix in FILE_ENDINGS:
        plan = load_plan(what)
        graph = views.GraphView(steps=plan.steps, statuses={}, ways={})
        figure, title = figure_of_plan(plan), Path(what).name
    else:
        with Client() as client:
            handle = client.run(what)
            run = handle.status()
            with client.session() as session:
                graph = views.view_graph(session, handle.run_id)
        figure = figure_of_run(graph.steps, graph.statuses, graph.ways)
        title = f"Run {short(run.run_id)}, {run.status}: {one_line(run.goal, 80)}".rstrip(": ")
    if as_json:
        print_json({"title": title, "steps": graph.steps, "statuses": graph.statuses, "ways": graph.ways})
        return
    drawing = _drawn(figure, form, title)
    if output is None:
        answers().file.write(drawing)
        return
    try:
        output.write_text(drawing, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}); name another file.") from error


def _drawn(figure: Figure, form: Format, title: str) -> str:
    match form:
        case Format.MERMAID:
            return draw_mermaid(figure)
        case Format.SVG:
            return draw_svg(figure, title=title)
        case Format.TEXT:
            return plain(f"{title}\n{draw_text(figure, width=answers().width)}")
