"""`chargehand audit`: is the journal as it was written, and a copy of it to keep elsewhere."""

import json
import time
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text
from sqlalchemy import select

from chargehand.memory import journal
from chargehand.memory.journal import Objection
from chargehand.memory.tables import RUN_STREAM, RunAnchor
from chargehand.orchestrator import verification, views
from chargehand.orchestrator.auditkey import audit_key, key_file
from chargehand.orchestrator.cli import exits
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
from chargehand.orchestrator.settings import Settings
from chargehand.orchestrator.tables import RunRow
from chargehand.orchestrator.transitions import RUN_ENDINGS
from chargehand.orchestrator.verification import Verification

# A run that goes on may write between two of our reads; a real objection is still there the next time.
LOOKS_AT_A_LIVE_RUN = 3
LOOK_AGAIN_SECONDS = 0.2
MAX_LISTED = 50

app = typer.Typer()
_audit = typer.Typer(help="Verify or export the journal.", no_args_is_help=True)
app.add_typer(_audit, name="audit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What a verification found."""

    runs: tuple[Verification, ...]
    anchors: tuple[Objection, ...]
    """Objections to the tenant's chain of ended runs."""
    seals_checked: bool
    """False: the key that sealed the chain is not here."""

    @property
    def objections(self) -> tuple[Objection, ...]:
        """Everything that is wrong."""
        return (*(one for run in self.runs for one in run.objections), *self.anchors)


@_audit.command()
def verify(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run and the chain of runs.")] = None,
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
        run_id = client.run(run).run_id
        with client.session() as session:
            documents: list[object] = [
                {**jsonable(entry), "step": None if entry.step == RUN_STREAM else entry.step}
                for entry in journal.read(session, run_id)
            ]
            anchors = session.scalars(select(RunAnchor).where(RunAnchor.run == run_id).order_by(RunAnchor.seq)).all()
            documents += [
                {
                    "kind": "anchor",
                    "run": anchor.run,
                    "seq": anchor.seq,
                    "run_seq": anchor.run_seq,
                    "run_hash": anchor.run_hash,
                    "hash": anchor.hash,
                    "seal": anchor.seal,
                }
                for anchor in anchors
            ]
    file = answers().file
    for document in documents:
        file.write(json.dumps(document, default=jsonable) + "\n")


def verify_all(client: Client, run_id: UUID | None = None) -> Audit:
    """Verify one run, or all of the tenant, and the chain of ended runs."""
    key = known_key(client.settings)
    with client.session() as session:
        wanted = [run_id] if run_id is not None else list(session.scalars(select(RunRow.id).order_by(RunRow.id)))
    verified = tuple(_verify(client, one) for one in wanted)
    with client.session() as session:
        anchors = tuple(journal.verify_anchors(session, client.tenant, key=key))
    return Audit(runs=verified, anchors=anchors, seals_checked=key is not None)


def known_key(settings: Settings) -> bytes | None:
    """The key of the seals; None when it is not on this machine (a new one would fit none of them)."""
    if settings.audit_key.get_secret_value() or key_file(settings).is_file():
        return audit_key(settings)
    return None


def _verify(client: Client, run_id: UUID) -> Verification:
    for look in range(1, LOOKS_AT_A_LIVE_RUN + 1):
        with client.session() as session:
            ended = views.view_run(session, run_id).status in RUN_ENDINGS
            verified = verification.verify_run(session, run_id)
        if not verified.objections or (ended and look > 1) or look == LOOKS_AT_A_LIVE_RUN:
            return verified
        time.sleep(LOOK_AGAIN_SECONDS)
    raise AssertionError("unreachable: the last look returns")


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
