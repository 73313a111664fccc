"""`chargehand roles`: who can be given a step, and what their files say."""

import difflib
from pathlib import Path
from typing import Annotated

import typer
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from chargehand.memory import procedural
from chargehand.memory.procedural import PlacedRole, Role
from chargehand.orchestrator.checking import FileProblem, check_folders
from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.terminal import AsJson, answers, notes, one_line, plain, plural, print_json
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.errors import Unavailable, UserError
from chargehand.orchestrator.offers import Offers, ask_workers
from chargehand.orchestrator.settings import load_settings

Named = Annotated[str, typer.Argument(metavar="ROLE", help="A name, NAME@HASH as a run has pinned it, or a file.")]

app = typer.Typer()
_roles = typer.Typer(help="List, show, check and compare the roles that agents can have.", invoke_without_command=True)
app.add_typer(_roles, name="roles")


@_roles.callback()
def roles(context: typer.Context, as_json: AsJson = False) -> None:
    """List, show, check and compare the roles that agents can have."""
    if context.invoked_subcommand is None:
        list_(as_json=as_json)


@_roles.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the roles, yours of CHARGEHAND_ROLES_PATH and those of this installation.

    The hash is that of the role's file; a run pins it and keeps the text.
    """
    folders = load_settings().role_folders
    placed = procedural.place_roles(*folders)
    if as_json:
        print_json([_as_json(one) for one in placed.values()])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("ROLE", "TIER", "POOL", "TURNS", "HASH", "TOOLS", "DESCRIPTION"):
        table.add_column(name, no_wrap=name != "DESCRIPTION", justify="right" if name == "TURNS" else "left")
    for one in placed.values():
        role = one.role
        table.add_row(
            Text(role.name, style="bold"),
            role.tier,
            role.pool,
            str(role.max_turns),
            role.blob_hash[:10],
            Text(", ".join(role.tools) or "none"),
            Text(one_line(role.description)),
        )
    console = answers()
    console.print(table)
    for folder in folders:
        own = sum(one.path.parent == folder for one in placed.values())
        console.print(Text(f"{plural(own, 'role')} from {plain(str(folder))}", style="dim"), soft_wrap=True)
    for one in placed.values():
        for hidden in one.overrides:
            line = f"{one.role.name}: {plain(str(one.path))} takes the place of {plain(str(hidden))}"
            console.print(Text(line, style="yellow"), soft_wrap=True)


@_roles.command()
def show(role: Named, as_json: AsJson = False) -> None:
    """Print the file of a role: as it is now, or as a run has pinned it."""
    found = _find(role)
    if as_json:
        print_json({**_as_json(found), "text": found.role.text})
        return
    console = answers()
    if console.is_terminal:
        console.print(Syntax(plain(found.role.text), "markdown", background_color="default", word_wrap=True))
        where = f"{found.role.blob_hash}  {found.path}" + (f"  commit {found.role.commit}" if found.role.commit else "")
        console.print(Text(plain(where), style="dim"), soft_wrap=True)
    else:
        console.print(Text(plain(found.role.text)), soft_wrap=True, end="" if found.role.text.endswith("\n") else "\n")


@_roles.command()
def check(
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A role's file or a folder; default: all folders of roles.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with roles, with file and line; exit code 1 when something is.

    Tools and outputs are those of workers that are started here: of Chargehand, of CHARGEHAND_MODULES, and of installed
    packages.
    """
    folders = load_settings().role_folders if path is None else (path,)
    offers = _offers()
    checked, problems = check_folders(folders, offers)
    if as_json:
        print_json({"ok": not problems, "files": checked, "problems": problems})
    else:
        for problem in problems:
            answers().print(_problem_line(problem), soft_wrap=True)
        verdict = f"{plural(checked, 'role')} checked: {plural(len(problems), 'problem')}." if problems else ""
        answers().print(Text(verdict or f"{plural(checked, 'role')} checked, nothing is wrong."), soft_wrap=True)
    if problems:
        raise typer.Exit(exits.FAILED)


@_roles.command()
def diff(first: Named, second: Named, as_json: AsJson = False) -> None:
    """Compare two roles: names, files, or versions that runs have pinned."""
    old, new = _find(first), _find(second)
    lines = list(
        difflib.unified_diff(
            old.role.text.splitlines(),
            new.role.text.splitlines(),
            f"{first} ({old.role.blob_hash[:10]})",
            f"{second} ({new.role.blob_hash[:10]})",
            lineterm="",
        )
    )
    if as_json:
        print_json({"first": _as_json(old), "second": _as_json(new), "same": not lines, "diff": "\n".join(lines)})
        return
    console = answers()
    if not lines:
        console.print("The same text.")
    for line in lines:
        console.print(Text(plain(line), style=_style(line)), soft_wrap=True)


def _find(named: str) -> PlacedRole:
    name, at, beginning = named.partition("@")
    if at and name and not Path(named).exists():
        if len(beginning) < 4 or not all(digit in "0123456789abcdef" for digit in beginning.lower()):
            raise UserError(f"{beginning!r} is no beginning of a hash; give four or more of its digits after the @.")
        current = procedural.place_roles(*load_settings().role_folders).get(name)
        if current is not None and current.role.blob_hash.startswith(beginning.lower()):
            return current
        with Client() as client, client.session() as session:
            role = procedural.pinned_role(session, tenant=client.tenant, name=name, beginning=beginning.lower())
        return PlacedRole(role=role, path=Path(f"{name}@{role.blob_hash[:10]}"))
    if "/" in named or named.endswith(".md"):
        return PlacedRole(role=_of_file(Path(named)), path=Path(named))
    known = procedural.place_roles(*load_settings().role_folders)
    procedural.choose({name: one.role for name, one in known.items()}, named)
    return known[named]


def _of_file(file: Path) -> Role:
    try:
        return procedural.parse_role(procedural.read_text(file), origin=str(file), commit=procedural.commit_of(file))
    except OSError as error:
        raise UserError(f"{plain(str(file))} cannot be read ({error.strerror}); name the file of a role.") from error


def _offers() -> Offers | None:
    try:
        return ask_workers()
    except Unavailable as error:
        why = f"{one_line(str(error), 300)} Tools and outputs are not checked."
        notes().print(Text(why, style="yellow"), soft_wrap=True)
        return None


def _as_json(one: PlacedRole) -> dict[str, object]:
    role = one.role
    return {
        "name": role.name,
        "tier": role.tier,
        "pool": role.pool,
        "max_turns": role.max_turns,
        "tools": role.tools,
        "output": role.output,
        "hash": role.blob_hash,
        "commit": role.commit,
        "description": role.description,
        "path": one.path,
        "overrides": one.overrides,
    }


def _problem_line(problem: FileProblem) -> Text:
    return Text.assemble((f"{plain(str(problem.path))}:{problem.line}", "bold"), ": ", plain(problem.what))


def _style(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
