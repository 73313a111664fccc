"""`chargehand audit`: is the journal as it was written, and a copy of it to keep elsewhere."""

import json
from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from chargehand.memory.journal import Objection
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.auditing import Audit, rows_of, verify_all
from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.completing import run_names
from chargehand.orchestrator.cli.terminal import (
    STATUS_STYLES,
    AsJson,
    RunName,
    answers,
    jsonable,
    one_line,
    plural,
    print_json,
    short,
)
from chargehand.orchestrator.client import Client

MAX_LISTED = 50

app = typer.Typer()
_audit = typer.Typer(help="Verify or export the journal.", no_args_is_help=True)
app.add_typer(_audit, name="audit")


@_audit.command()
def verify(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", autocompletion=run_names, help="Only this run and the chain of runs."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that nobody edited, deleted, inserted, reordered or cut off rows of the journal.

    Every hash is computed anew from the rows. What a database owner could forge altogether is sealed with a key that
    is kept outside of the database (CHARGEHAND_AUDIT_KEY, or audit.key in CHARGEHAND_HOME).
    """
    with Client() as client:
        audited = verify_all(client, client.run(run).run_id if run is not None else None)
        statuses = {verified.run_id: client.run(verified.run_id).status().status for verified in audited.runs}
    if as_json:
        print_json(
            {"ok": not audited.objections, "runs": audited.runs, "anchors": audited.anchors,
             "seals_checked": audited.seals_checked}
        )  # fmt: skip
    else:
        _print(audited, statuses)
    if audited.objections:
        raise typer.Exit(exits.FAILED)


@_audit.command()
def export(run: RunName) -> None:
    """Print every row of a run's journal with its hashes, one JSON object a line, and the run's anchor last."""
    with Client() as client:
        file = answers().file
        for row in rows_of(client, client.run(run).run_id):
            file.write(json.dumps(row, default=jsonable) + "\n")


def _print(audited: Audit, statuses: dict[UUID, str]) -> None:
    console = answers()
    for verified in audited.runs:
        status = statuses[verified.run_id]
        rows = f"{plural(verified.rows, 'row')} in {plural(verified.streams, 'stream')}"
        verdict = ("chain OK", "green") if not verified.objections else ("chain BROKEN", "bold red")
        console.print(
            Text.assemble(
                (short(verified.run_id), "bold cyan"),
                "  ",
                verdict,
                f", {rows}, head {verified.head_hash[:16]}  ",
                (status, STATUS_STYLES.get(status, "")),
            ),
            soft_wrap=True,
        )
    for objection in audited.objections[:MAX_LISTED]:
        console.print(Text.assemble(("  ✗ ", "red"), one_line(describe(objection))), soft_wrap=True)
    if len(audited.objections) > MAX_LISTED:
        console.print(f"  … and {len(audited.objections) - MAX_LISTED} more", soft_wrap=True)
    seals = "seals checked" if audited.seals_checked else "seals NOT checked: their key is not on this machine"
    chain = ("chain of ended runs OK", "green") if not audited.anchors else ("chain of ended runs BROKEN", "bold red")
    console.print(Text.assemble(chain, f", {seals}"), soft_wrap=True)


def describe(objection: Objection) -> str:
    """Where and what."""
    where = f"run {short(objection.run)}" if objection.run is not None else "chain of ended runs"
    if objection.step is not None and objection.step != RUN_STREAM:
        where += f", step {objection.step}"
    return f"{where}, row {objection.seq}: {objection.what}"
