"""`chargehand apply`: the changes of a run, put into the user's working tree when asked."""

import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from chargehand.memory import journal
from chargehand.memory.sources import is_remote
from chargehand.memory.tables import RUN_STREAM
from chargehand.orchestrator.cli.results import PATCH
from chargehand.orchestrator.cli.terminal import (
    AsJson,
    RunName,
    answers,
    notes,
    one_line,
    plain,
    plural,
    print_json,
    short,
)
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.errors import InvalidWorkspace, UserError
from chargehand.orchestrator.facts import RunSubmitted, WorkspaceRef, parse_fact

GIT_TIMEOUT_SECONDS = 120.0
# What a cloned repository may have configured is not run because its patch is applied.
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
MAX_LISTED = 5

app = typer.Typer()


@app.command()
def apply(
    run: RunName,
    workspace: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Your working tree; default: the one that the run audited.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Apply the changes of a run to your working tree.

    Nothing is committed, and nothing is changed unless all of it fits. A tree with uncommitted changes is refused.
    """
    with Client() as client:
        handle = client.run(run)
        source = _workspace_of(client, handle)
        tree = working_tree(workspace, source)
        patch = handle.artifact(PATCH)
    files = apply_patch(tree, patch, run=short(handle.run_id))
    head = _git(tree, "rev-parse", "HEAD").stdout.decode().strip()
    if as_json:
        print_json({"run_id": handle.run_id, "workspace": tree, "files": files})
        return
    if not files:
        answers().print(Text(f"Run {short(handle.run_id)} changed nothing; there is nothing to apply."), soft_wrap=True)
        return
    if source is not None and head != source.commit:
        line = f"Note: the run audited {source.commit[:12]}, your tree is at {head[:12]}; the changes fit all the same."
        notes().print(Text(line, style="yellow"), soft_wrap=True)
    console = answers()
    console.print(Text(plain(f"Changed {plural(len(files), 'file')} in {tree}:")), soft_wrap=True)
    for name in files:
        console.print(Text(f"  {one_line(name)}"), soft_wrap=True)
    console.print(Text("Look at them with: git diff", style="dim"))


def working_tree(named: Path | None, source: WorkspaceRef | None) -> Path:
    """The root of the tree to change; raises `InvalidWorkspace`."""
    if named is None:
        if source is None or is_remote(source.source):
            raise InvalidWorkspace("The run did not audit a folder of this machine; name yours with --workspace PATH.")
        named = Path(source.source)
    if not named.is_dir():
        raise InvalidWorkspace(f"Workspace {named} is not a folder; name your working tree with --workspace PATH.")
    found = _git(named, "rev-parse", "--show-toplevel")
    if b"dubious ownership" in found.stderr:
        raise InvalidWorkspace(
            f"Workspace {named} belongs to another user, and git does not touch it; apply as that user, or name a "
            "clone of yours with --workspace PATH."
        )
    if found.returncode != 0:
        raise InvalidWorkspace(f"Workspace {named} is not in a git working tree ({_said(found)}); name yours.")
    return Path(os.fsdecode(found.stdout.rstrip(b"\n")))


def apply_patch(tree: Path, patch: bytes, *, run: str) -> tuple[str, ...]:
    """Apply all of the patch or nothing; gives the files it changed. Raises `UserError`."""
    if not patch.strip():
        return ()
    dirty = _git(tree, "status", "--porcelain=v1", "-z", "--untracked-files=no", "--ignore-submodules=all")
    changed = [os.fsdecode(row[3:]) for row in dirty.stdout.split(b"\0") if row]
    if changed:
        listed = ", ".join(one_line(name, 80) for name in changed[:MAX_LISTED])
        more = f" and {len(changed) - MAX_LISTED} more" if len(changed) > MAX_LISTED else ""
        raise UserError(f"{tree} has uncommitted changes ({listed}{more}); commit or stash them, then apply run {run}.")
    checked = _git(tree, "apply", "--check", "--whitespace=nowarn", "-", stdin=patch)
    if checked.returncode != 0:
        raise UserError(
            f"The changes of run {run} do not fit {tree} ({_said(checked)}); check out the commit that was audited."
        )
    listing = _git(tree, "apply", "--numstat", "-z", "--whitespace=nowarn", "-", stdin=patch)
    applied = _git(tree, "apply", "--whitespace=nowarn", "-", stdin=patch)
    if applied.returncode != 0:
        raise UserError(f"git could not apply the changes of run {run} to {tree} ({_said(applied)}).")
    return tuple(os.fsdecode(row.split(b"\t", 2)[-1]) for row in listing.stdout.split(b"\0") if row)


def _workspace_of(client: Client, handle: RunHandle) -> WorkspaceRef | None:
    with client.session() as session:
        for entry in journal.read(session, handle.run_id, step=RUN_STREAM, kinds=["run.submitted"]):
            if entry.body is not None:
                fact = parse_fact(entry.body, schema_version=entry.schema_version)
                return fact.workspace if isinstance(fact, RunSubmitted) else None
    return None


def _git(folder: Path, *arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return subprocess.run(
            ["git", "-C", os.fspath(folder), *_QUIET, *arguments],
            input=stdin,
            capture_output=True,
            env=environment,
            timeout=GIT_TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError("git is not installed; install it, then apply again.") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"git {arguments[0]} in {folder} took longer than {GIT_TIMEOUT_SECONDS:.0f} s.") from error


def _said(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return one_line(lines[0], 200) if lines else f"git ended with {done.returncode}"
