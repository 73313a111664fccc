"""`chargehand keys`: who may use the HTTP API, and for what."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator import keys
from chargehand.orchestrator.cli.terminal import AsJson, ago, answers, one_line, plain, print_json
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.keys import DEFAULT_SCOPES, SCOPES

_keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke keys of the HTTP API.")
app = typer.Typer()
app.add_typer(_keys, name="keys")


@_keys.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what uses it; answers to questions carry it.")],
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help=f"One of: {', '.join(SCOPES)}; admin is all of them [default: {', '.join(DEFAULT_SCOPES)}].",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key of this tenant.

    It is printed once and kept as a hash.
    """
    with Client() as client, client.session() as session:
        made = keys.add(session, client.tenant, name, scopes or DEFAULT_SCOPES)
    if as_json:
        print_json(made)
        return
    answers().print(Text(plain(f"Key {made.prefix} ({made.name}) may: {', '.join(made.scopes)}.")), soft_wrap=True)
    answers().print(Text(f"The key, shown once: {made.secret}"), soft_wrap=True)


@_keys.command("list")
def list_them(as_json: AsJson = False) -> None:
    """List the keys of this tenant, those that were revoked too."""
    with Client() as client, client.session() as session:
        found = keys.listed(session, client.tenant)
    if as_json:
        print_json(found)
        return
    if not found:
        answers().print("There are no keys.")
        return
    table = Table("prefix", "name", "scopes", "made", "used", "", box=None, header_style="dim")
    for one in found:
        used = ago(one.last_used_at) if one.last_used_at is not None else "never"
        state = Text("revoked", style="red") if one.revoked_at is not None else Text("")
        table.add_row(one.prefix, Text(one_line(one.name, 60)), ", ".join(one.scopes), ago(one.created_at), used, state)
    answers().print(table)


@_keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its prefix or its name, or the key itself.")],
    as_json: AsJson = False,
) -> None:
    """Make a key worthless; within two seconds every process refuses it."""
    with Client() as client, client.session() as session:
        gone = keys.revoke(session, client.tenant, key)
    if as_json:
        print_json(gone)
    else:
        answers().print(Text(plain(f"Key {gone.prefix} ({gone.name}) is refused from now on.")), soft_wrap=True)
