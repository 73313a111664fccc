"""`chargehand caps`: what all runs of a tenant together may spend."""

from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator.cli.terminal import AsJson, answers, money, print_json
from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.fleet import Fleet
from chargehand.orchestrator.requests import check_count, microusd
from chargehand.orchestrator.tenant_counts import CountCaps

app = typer.Typer()

NO_CAP = "none"


@app.command()
def caps(
    day: Annotated[str | None, typer.Option(metavar="USD", help="Of a day in UTC; none: no cap.")] = None,
    total: Annotated[str | None, typer.Option(metavar="USD", help="Of all days together; none: no cap.")] = None,
    day_calls: Annotated[str | None, typer.Option(metavar="N", help="Calls of models of a day; none: no cap.")] = None,
    total_calls: Annotated[str | None, typer.Option(metavar="N", help="Calls in all; none: no cap.")] = None,
    day_tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens of a day; none: no cap.")] = None,
    total_tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens in all; none: no cap.")] = None,
    day_seconds: Annotated[
        str | None, typer.Option(metavar="N", help="Seconds that agents hold workers, of a day; none: no cap.")
    ] = None,
    total_seconds: Annotated[str | None, typer.Option(metavar="N", help="Such seconds in all; none: no cap.")] = None,
    tenant: Annotated[UUID | None, typer.Option(metavar="ID", help="Another tenant than this installation's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show or set what all runs of a tenant together may spend, and their calls, tokens and time of agents.

    A run is held by its own budget and by these. What is not named stays as it is.
    """
    for given in (day, total):
        if given is not None and given != NO_CAP:
            microusd(given)
    with Fleet() as fleet:
        now = fleet.caps(tenant)
        if day is not None or total is not None:
            now = fleet.set_caps(
                tenant, total_usd=_chosen(total, now.cap_microusd), day_usd=_chosen(day, now.day_cap_microusd)
            )
        if any(
            one is not None for one in (day_calls, total_calls, day_tokens, total_tokens, day_seconds, total_seconds)
        ):
            counted = now.counts
            caps = CountCaps(
                day_max_calls=_count("--day-calls", day_calls, counted.day_max_calls),
                max_calls=_count("--total-calls", total_calls, counted.max_calls),
                day_max_tokens=_count("--day-tokens", day_tokens, counted.day_max_tokens),
                max_tokens=_count("--total-tokens", total_tokens, counted.max_tokens),
                day_max_agent_ms=_count("--day-seconds", day_seconds, counted.day_max_agent_ms, of_one=1000),
                max_agent_ms=_count("--total-seconds", total_seconds, counted.max_agent_ms, of_one=1000),
            )
            now = fleet.set_count_caps(tenant, caps=caps)
    if as_json:
        print_json(now)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    day_of = f" on {now.day}" if now.day is not None else ""
    for name, cap, drawn in (
        ("a day", now.day_cap_microusd, f"{money(now.day_drawn_microusd)} lent{day_of}"),
        ("in all", now.cap_microusd, f"{money(now.drawn_microusd)} lent"),
    ):
        table.add_row(Text(name, style="bold"), "no cap" if cap is None else f"{money(cap)}, of which {drawn}")
    counted = now.counts
    on_day = f" on {counted.day}" if counted.day is not None else ""
    for name, most, used in (
        ("calls a day", counted.day_max_calls, f"{counted.day_calls:,} used{on_day}"),
        ("calls in all", counted.max_calls, f"{counted.calls:,} used"),
        ("tokens a day", counted.day_max_tokens, f"{counted.day_tokens:,} used{on_day}"),
        ("tokens in all", counted.max_tokens, f"{counted.tokens:,} used"),
    ):
        table.add_row(Text(name, style="bold"), "no cap" if most is None else f"{most:,}, of which {used}")
    for name, most, used_ms, on in (
        ("agents' seconds a day", counted.day_max_agent_ms, counted.day_agent_ms, on_day),
        ("agents' seconds in all", counted.max_agent_ms, counted.agent_ms, ""),
    ):
        value = "no cap" if most is None else f"{most / 1000:,.0f}, of which {used_ms / 1000:,.1f} used{on}"
        table.add_row(Text(name, style="bold"), value)
    answers().print(table)


def _count(name: str, given: str | None, before: int | None, *, of_one: int = 1) -> int | None:
    """The cap as it is kept: `of_one` for each one of what was given."""
    if given is None:
        return before
    if given == NO_CAP:
        return None
    if not given.isdecimal():
        raise UserError(f"{name} is {given!r}; give a number of at least 1, or {NO_CAP!r} for no cap.")
    checked = check_count(name, int(given))
    return None if checked is None else checked * of_one


def _chosen(given: str | None, before: int | None) -> str | None:
    if given is None:
        return None if before is None else str(before / 1_000_000)
    return None if given == NO_CAP else given
