"""`chargehand memory`: search, fill and empty what agents remember."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Annotated
from uuid import UUID

import psycopg
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from chargehand.memory.beliefs import LIBRARY
from chargehand.memory.embedder import load_embedder
from chargehand.memory.file_records import PASSAGE
from chargehand.memory.semantic import Recalled
from chargehand.memory.vector_indexes import make_index
from chargehand.orchestrator import endpoints
from chargehand.orchestrator.cli.completing import run_names
from chargehand.orchestrator.cli.terminal import AsJson, ago, answers, notes, one_line, plain, plural, print_json, short
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.highlights import best_lines, highlights
from chargehand.orchestrator.settings import load_settings

# What takes less is there before anybody wonders.
QUIET_SECONDS = 2.0
# Between two lines of progress in a file or pipe.
LINE_SECONDS = 5.0
EXCERPT_LINES = 8

Scope = Annotated[str, typer.Option(metavar="SCOPE", help="`library`, or `run:ID` for what one run has read.")]

app = typer.Typer()
_memory = typer.Typer(help="Search, fill and empty what agents remember.", no_args_is_help=True)
app.add_typer(_memory, name="memory")


@_memory.command()
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Words, or a question.")],
    scope: Scope = LIBRARY,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", autocompletion=run_names, help="Search what this run has read.")
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(metavar="KIND", help="Only these: passage, note, ...")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 5,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help='What was believed at "2026-11-20 17:00" (UTC, or with a zone).'),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show passages whole, not only their best lines.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find what answers a question, by its words and by its meaning, best first.

    There is always a nearest, however far: look at the similarity before you believe that something was found.
    """
    moment = None if as_of is None else _moment(as_of)
    with Client() as client:
        if run is not None:
            scope = f"run:{client.run(run).run_id}"
        found = client.memory.search(query, scope=scope, kinds=kind or None, limit=limit, as_of=moment)
    if as_json:
        print_json([{**asdict(one), "highlights": highlights(one.text, query)} for one in found])
        return
    if not found:
        answers().print(
            f"Nothing is remembered in {plain(scope)}; fill it with: chargehand memory add PATH", markup=False
        )
        return
    console = answers()
    for number, one in enumerate(found):
        if number:
            console.print()
        console.print(_heading(one), soft_wrap=True)
        for line in _lines(one, query, full=full):
            console.print(line, soft_wrap=True)


@_memory.command()
def add(
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help="A folder or a file.")] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Its sources are called NAME/...; default: its own name.")
    ] = None,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="Remember this text; `-` reads it.")] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Where the note is from.")] = None,
    scope: Scope = LIBRARY,
    as_json: AsJson = False,
) -> None:
    """Remember the text files of a folder as they are now; done again, only what has changed is read.

    In a git work tree these are the files that git tracks or would track, elsewhere all but hidden ones. Code is cut
    at functions and classes, prose at headings. Passages of files that have changed are superseded, those of files
    that are gone are forgotten.
    """
    if (path is None) == (note is None):
        raise UserError("Give either a PATH or --note TEXT.")
    if note is not None:
        with Client() as client:
            text = sys.stdin.read() if note == "-" else note
            made = client.memory.note(text, source=source or client.name, scope=scope)
        if as_json:
            print_json({"memory_id": made})
        else:
            answers().print(str(made))
        return
    assert path is not None
    with Client() as client, _shown_progress("Reading", "files") as show:
        done = client.memory.add(
            path,
            name=name,
            scope=scope,
            progress=lambda so_far: show(so_far.seen, so_far.listed, f"{so_far.passages:,} passages"),
        )
    if as_json:
        print_json(done)
        return
    line = f"{plural(done.passages, 'passage')} of {plural(done.files, 'file')} in {plain(scope)}"
    details = [
        f"{done.unchanged:,} unchanged" if done.unchanged else "",
        f"{plural(done.removed, 'file')} gone" if done.removed else "",
        f"{plural(done.retired, 'passage')} retired" if done.retired else "",
        *(f"{count:,} {reason}" for reason, count in done.skipped.items()),
    ]
    answers().print(Text("; ".join([line, *(detail for detail in details if detail)]) + "."), soft_wrap=True)


@_memory.command()
def forget(
    source: Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="`docs/` means all that begin so.")] = None,
    memory: Annotated[list[UUID] | None, typer.Option(metavar="ID", help="These memories: a poisoned lesson.")] = None,
    run: Annotated[
        list[str] | None, typer.Option(metavar="RUN", autocompletion=run_names, help="All that came of these runs.")
    ] = None,
    scope: Annotated[str | None, typer.Option(metavar="SCOPE", help="Only there; default: everywhere.")] = None,
    as_json: AsJson = False,
) -> None:
    """Delete what was read in a source, memories, or what came of a run, with everything that was concluded from them.

    What they had superseded is believed again.
    """
    with Client() as client:
        runs = [client.run(one).run_id for one in run or ()]
        gone = client.memory.forget(source, scope=scope, memories=memory or (), runs=runs)
    if as_json:
        print_json({"forgotten": gone.memories, "believed_again": gone.believed_again})
        return
    line = f"{_memories(len(gone.memories))} forgotten, with what was concluded from them"
    if gone.believed_again:
        line += f"; {_memories(len(gone.believed_again))} believed again"
    answers().print(f"{line}.")


@_memory.command("reindex")
def reindex_(
    index: Annotated[bool, typer.Option(help="Make the model's index first; needs the owner of the tables.")] = True,
    keep_others: Annotated[bool, typer.Option("--keep-others", help="Leave the vectors of other models.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give every memory a vector of the embedding model that is set now, and then drop those of others.

    May be stopped, and goes on where it was. Workers go on finding with the former model until it has ended.
    """
    settings = load_settings()
    embedder = load_embedder()
    if index:
        try:
            make_index(endpoints.database_url(settings), model_id=embedder.model_id, dimensions=embedder.dimensions)
        except psycopg.errors.InsufficientPrivilege as error:
            raise UserError(
                "Only the owner of the tables can make an index; name it in CHARGEHAND_DATABASE_URL, or use --no-index."
            ) from error
    with Client(settings=settings) as client, _shown_progress("Embedding", "memories") as show:
        done = client.memory.reindex(
            keep_others=keep_others,
            progress=lambda so_far: show(so_far.embedded, so_far.total, f"{so_far.dropped:,} old vectors dropped"),
        )
    if as_json:
        print_json({"model_id": embedder.model_id, **asdict(done)})
        return
    line = f"{_memories(done.embedded)} embedded by {plain(embedder.model_id)}; {done.dropped:,} other vectors dropped."
    answers().print(Text(line), soft_wrap=True)


@_memory.command()
def stats(as_json: AsJson = False) -> None:
    """Count what is remembered, by scope, kind and embedding model."""
    with Client() as client:
        found = client.memory.stats()
        waiting = client.memory.to_embed() if found and not as_json else None
    if as_json:
        print_json(found)
        return
    if not found:
        answers().print("Nothing is remembered yet; begin with: chargehand memory add PATH")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("SCOPE", "SOURCES", "MEMORIES", "SUPERSEDED", "VECTORS", "KINDS", "NEWEST"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in _NUMBERS else "left")
    for one in found:
        table.add_row(
            Text(one_line(one.scope), style="bold"),
            f"{one.sources:,}",
            f"{one.memories:,}",
            f"{one.superseded:,}",
            Text(_counted(one.vectors) or "none"),
            Text(_counted(one.kinds)),
            Text(ago(one.newest_at) if one.newest_at is not None else ""),
        )
    answers().print(table)
    if waiting is not None and waiting.memories:
        line = (
            f"{_memories(waiting.memories)} without a vector of {plain(waiting.model_id)}: research workers embed "
            "them in the background, chargehand memory reindex does it now."
        )
        answers().print(Text(line, style="yellow"), soft_wrap=True)


# Whose word a memory is, as people would say it.
_WORDS = {"content": "a file or page", "conclusion": "an agent", "person": "a person"}
_NUMBERS = frozenset({"SOURCES", "MEMORIES", "SUPERSEDED"})


def _moment(typed: str) -> datetime:
    try:
        moment = datetime.fromisoformat(typed.strip())
    except ValueError:
        raise UserError(f"--as-of {typed!r} is no time; write 2026-11-20 or 2026-11-20T17:00+01:00.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{one_line(name)} {number:,}" for name, number in numbers.items())


def _heading(one: Recalled) -> Text:
    similarity = "words only" if one.similarity is None else f"similarity {one.similarity:.2f}"
    return Text.assemble(
        (f"{plain(one.source)}:{one.line_start}-{one.line_end}", "bold cyan"),
        (f"  {plain(one.kind)} of {_WORDS[one.trust]}, score {one.score:.2f}, {similarity}", "dim"),
        (f", {_origin(one)}" if one.run_id is not None else "", "dim"),
        ("" if one.kind == PASSAGE else f"  {one.memory_id}", "dim"),
        ("  superseded since" if one.superseded_by is not None else "", "yellow"),
    )


def _origin(one: Recalled) -> str:
    by = f" by {plain(one.tool)}" if one.tool else ""
    return f"run {short(one.run_id)}{by}" if one.run_id is not None else ""


def _lines(one: Recalled, query: str, *, full: bool) -> Iterator[Text]:
    lines = one.text.split("\n")
    marks = [highlights(line, query) for line in lines]
    chosen = range(len(lines)) if full else best_lines(lines, [n for n, m in enumerate(marks) if m], most=EXCERPT_LINES)
    width = len(str(one.line_start + len(lines)))
    for number in chosen:
        shown, at = Text(f"{one.line_start + number:>{width}}  ", style="dim"), 0
        for begin, end in marks[number]:
            shown.append(plain(lines[number][at:begin]), style="not dim")
            shown.append(plain(lines[number][begin:end]), style="not dim bold yellow")
            at = end
        shown.append(plain(lines[number][at:]), style="not dim")
        yield shown
    if len(chosen) < len(lines):
        yield Text(f"{'':>{width}}  ... {len(lines) - len(chosen)} more lines (--full)", style="dim")


def _memories(count: int) -> str:
    return f"{count:,} {'memory' if count == 1 else 'memories'}"


@contextmanager
def _shown_progress(doing: str, things: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar in a terminal, now and then a line in a file or pipe; nothing in the first two seconds."""
    console = notes()
    started = told = monotonic()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{things}, {{task.fields[detail]}}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(doing, total=None, detail="")

    def show(done: int, total: int, detail: str) -> None:
        nonlocal told
        now = monotonic()
        if now - started < QUIET_SECONDS:
            return
        if console.is_terminal:
            bar.start()
            bar.update(task, total=total, completed=done, detail=detail)
        elif now - told >= LINE_SECONDS:
            told = now
            console.print(f"{done:,} of {total:,} {things}, {detail}")

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
