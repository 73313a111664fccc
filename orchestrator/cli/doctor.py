"""`chargehand doctor`: is everything there that Chargehand needs, and does it fit together."""

import typer
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.diagnosis import diagnose
from chargehand.orchestrator.cli.terminal import AsJson, answers, plain, print_json
from chargehand.orchestrator.settings import load_settings

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "wrong": ("✗", "bold red")}

app = typer.Typer()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that everything Chargehand needs is there and fits together.

    Exit code 3 when something that is needed is missing.
    """
    findings = diagnose(load_settings())
    healthy = all(finding.state != "wrong" for finding in findings)
    if as_json:
        print_json({"ok": healthy, "checks": findings})
    else:
        table = Table.grid(padding=(0, 1))
        table.add_column()
        table.add_column(no_wrap=True)
        table.add_column()
        for finding in findings:
            mark, style = _MARKS[finding.state]
            words = Text(plain(finding.what))
            if finding.remedy:
                words.append(f"\n→ {plain(finding.remedy)}", style=style)
            table.add_row(Text(mark, style=style), Text(finding.name, style="bold"), words)
        answers().print(table)
    if not healthy:
        raise typer.Exit(exits.UNAVAILABLE)
