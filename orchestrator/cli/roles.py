"""`chargehand roles`: who can be given a step."""

import typer
from rich.table import Table
from rich.text import Text

from chargehand.memory import procedural
from chargehand.orchestrator.cli.terminal import AsJson, answers, one_line, print_json
from chargehand.orchestrator.settings import load_settings

app = typer.Typer()


@app.command()
def roles(as_json: AsJson = False) -> None:
    """List the roles that agents can have.

    The hash is that of the role's file; a run pins it and keeps the text.
    """
    settings = load_settings()
    known = procedural.load_roles(settings.roles)
    if as_json:
        print_json(
            [
                {
                    "name": role.name,
                    "tier": role.tier,
                    "pool": role.pool,
                    "max_turns": role.max_turns,
                    "tools": role.tools,
                    "output": role.output,
                    "hash": role.blob_hash,
                    "commit": role.commit,
                    "description": role.description,
                }
                for role in known.values()
            ]
        )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("ROLE", "TIER", "POOL", "TURNS", "HASH", "TOOLS", "DESCRIPTION"):
        table.add_column(name, no_wrap=name != "DESCRIPTION", justify="right" if name == "TURNS" else "left")
    for role in known.values():
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
    console.print(Text(f"from {settings.roles}", style="dim"), soft_wrap=True)
