"""`chargehand webhooks`: whom to tell of what, and whether they have heard it."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli.terminal import AsJson, ago, ahead, answers, one_line, plain, print_json, short
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.webhooks.payload import EVENTS
from chargehand.orchestrator.webhooks.sending import check_url
from chargehand.orchestrator.webhooks.signing import check_secret

_webhooks = typer.Typer(no_args_is_help=True, help="Tell your servers of escalations, ends of runs and budgets.")
app = typer.Typer()
app.add_typer(_webhooks, name="webhooks")


@_webhooks.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to POST to, http or https.")],
    events: Annotated[
        list[str] | None, typer.Option("--event", metavar="EVENT", help=f"One of: {', '.join(EVENTS)} [default: all].")
    ] = None,
    secret: Annotated[
        str | None, typer.Option(metavar="WHSEC", help="Your own, `whsec_…` [default: a new one].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell this URL of what happens from now on.

    Each message is signed by the Standard Webhooks specification. The secret is printed once.
    """
    check_url(url)
    if secret is not None:
        check_secret(secret)
    with Client() as client:
        made = client.add_webhook(url, events=events or EVENTS, secret=secret)
    if as_json:
        print_json(made)
        return
    answers().print(
        Text(plain(f"Webhook {str(made.webhook_id)[:8]} is told of {', '.join(made.events)}.")), soft_wrap=True
    )
    answers().print(Text(f"Its secret, shown once: {made.secret}"), soft_wrap=True)


@_webhooks.command("list")
def list_them(as_json: AsJson = False) -> None:
    """List the webhooks."""
    with Client() as client:
        found = client.webhooks()
    if as_json:
        print_json(found)
        return
    if not found:
        answers().print("There are no webhooks.")
        return
    table = Table("id", "url", "events", "made", box=None, header_style="dim")
    for one in found:
        made = ago(one.created_at) if one.created_at is not None else ""
        table.add_row(str(one.webhook_id)[:8], Text(one_line(one.url, 80)), ", ".join(one.events), made)
    answers().print(table)


@_webhooks.command()
def remove(
    webhook: Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id, or a beginning of it.")],
    as_json: AsJson = False,
) -> None:
    """Tell a webhook nothing more."""
    with Client() as client:
        gone = client.remove_webhook(webhook)
    if as_json:
        print_json(gone)
    else:
        answers().print(Text(plain(f"Webhook {str(gone.webhook_id)[:8]} is told nothing more.")), soft_wrap=True)


@_webhooks.command()
def deliveries(
    failed: Annotated[bool, typer.Option("--failed", help="Only those that were given up.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List what webhooks were to hear, the newest first, and how that went."""
    with Client() as client:
        found = client.deliveries(failed=failed, limit=limit)
    if as_json:
        print_json(found)
        return
    if not found:
        answers().print("Nothing was to be delivered.")
        return
    table = Table("webhook", "event", "run", "status", "attempts", "outcome", "when", box=None, header_style="dim")
    for one in found:
        when = f"again {ahead(one.due_at)}" if one.due_at is not None and one.attempts else ago(one.created_at)
        table.add_row(
            str(one.webhook_id)[:8], one.event, short(one.run_id), one.status, str(one.attempts), one.outcome, when
        )
    answers().print(table)


@_webhooks.command()
def redeliver(as_json: AsJson = False) -> None:
    """Try everything again that was given up."""
    with Client() as client:
        count = client.redeliver()
    if as_json:
        print_json({"again": count})
    else:
        answers().print(f"{count} are tried again.")
