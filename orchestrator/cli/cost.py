"""`chargehand cost`: where the money of a run, or of the fleet, went."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chargehand.orchestrator import views
from chargehand.orchestrator.charges import FleetCosts, RunCosts
from chargehand.orchestrator.cli.completing import run_names
from chargehand.orchestrator.cli.terminal import (
    AsJson,
    answers,
    duration,
    money,
    one_line,
    plural,
    print_json,
    short,
)
from chargehand.orchestrator.client import Client
from chargehand.orchestrator.costing import Costs, Misses, Totals
from chargehand.orchestrator.errors import UserError

app = typer.Typer()

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
# More steps than this are not read one by one.
MOST_LINES = 30
# Reasons of a server, and steps of a reason.
MOST_MISSES = 5


@app.command()
def cost(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", autocompletion=run_names, help="Id of a run, or the beginning or end of it."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGO", help="Of all runs, in so long: 30m, 24h, 7d or 4w.")
    ] = None,
    as_claude: Annotated[
        bool, typer.Option("--as-claude", help="At the prices of Claude's model of each tier, whoever answered.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where the money of a run, or of all, went.

    By step, role, model and tier; and what caching and routing saved, which is the same journal priced without them.
    """
    if (run is None) == (since is None):
        raise UserError("Name a run, or say of which time: chargehand cost RUN, or chargehand cost --since 7d.")
    with Client() as client:
        if since is not None:
            fleet = client.costs(parse_ago(since), as_claude=as_claude)
            if as_json:
                print_json({**_as_json(fleet.costs, fleet.unpriced), "since": fleet.since, "runs": fleet.by_run})
                return
            _print_fleet(answers(), fleet)
            return
        handle = client.run(run or "")
        view, found = handle.status(), handle.costs(as_claude=as_claude)
        with client.session() as session:
            account = views.account(session, handle.run_id)
        if as_json:
            print_json(
                {
                    "run_id": view.run_id,
                    "cap_microusd": view.cap_microusd,
                    "account": account,
                    "steps": {
                        step.key: {"turns": step.turns, "spent_microusd": step.spent_microusd}
                        for step in handle.steps()
                    },
                    **_as_json(found.costs, found.unpriced),
                }
            )
            return
        # What was charged, whatever it is priced as.
        is_over = account.cost_microusd > view.cap_microusd
        over = ": a model's server charged more than the upper bound of a call" if is_over else ""
        spent = f"{money(account.cost_microusd)} of {money(view.cap_microusd)}{over}"
        _print_run(answers(), found, spent=spent, took=duration(account.duration_seconds))


def parse_ago(text: str) -> timedelta:
    """`7d` and the like; raises `UserError`."""
    found = re.fullmatch(r"(\d{1,5})([mhdw])", text.strip())
    if found is None or not int(found[1]):
        raise UserError(f"--since {text!r} is no stretch of time; give 30m, 24h, 7d or 4w.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _as_json(costs: Costs, unpriced: tuple[str, ...]) -> dict[str, object]:
    groups = {"step": costs.by_step, "role": costs.by_role, "model": costs.by_model, "tier": costs.by_tier}
    compared = costs.compared
    return {
        "total": _totals_json(costs.total),
        **{f"by_{name}": {key: _totals_json(one) for key, one in group.items()} for name, group in groups.items()},
        "compared": {
            "large_model": compared.large_model,
            "routed_and_cached_microusd": compared.routed_and_cached_microusd,
            "without_caching_microusd": compared.routed_microusd,
            "without_routing_microusd": compared.cached_microusd,
            "without_both_microusd": compared.neither_microusd,
            "saved_by_caching_microusd": compared.saved_by_caching_microusd,
            "saved_by_routing_microusd": compared.saved_by_routing_microusd,
            "saved_microusd": compared.saved_microusd,
        },
        "cache_misses": {
            reason: {"calls": one.calls, "tokens": one.tokens, "steps": list(one.steps)}
            for reason, one in costs.cache_misses.items()
        },
        "prices_as_of": costs.prices_as_of,
        "unpriced_models": list(unpriced),
    }


def _totals_json(one: Totals) -> dict[str, object]:
    return {
        "calls": one.calls,
        "calls_without_answer": one.calls_without_answer,
        "input_tokens": one.input_tokens,
        "output_tokens": one.output_tokens,
        "cache_write_tokens": one.cache_write_tokens,
        "cache_read_tokens": one.cache_read_tokens,
        "cache_hit_rate": round(one.hit_rate, 4),
        "cost_microusd": one.cost_microusd,
        "without_answer_microusd": one.without_answer_microusd,
    }


def _print_run(console: Console, found: RunCosts, *, spent: str, took: str) -> None:
    _print_facts(console, found.costs, found.unpriced, {"cost": spent}, {"time": took})
    for name, group in (
        ("STEP", found.costs.by_step),
        ("ROLE", found.costs.by_role),
        ("MODEL", found.costs.by_model),
        ("TIER", found.costs.by_tier),
    ):
        _print_group(console, name, group)


def _print_fleet(console: Console, fleet: FleetCosts) -> None:
    first = {"cost": f"{money(fleet.costs.total.cost_microusd)} of {plural(fleet.runs, 'run')}"}
    _print_facts(console, fleet.costs, fleet.unpriced, first, {"since": f"{fleet.since:%Y-%m-%d %H:%M %Z}"})
    for name, group in (("ROLE", fleet.costs.by_role), ("MODEL", fleet.costs.by_model), ("TIER", fleet.costs.by_tier)):
        _print_group(console, name, group)
    if fleet.by_run:
        table = Table(box=None, pad_edge=False)
        table.add_column("RUN")
        table.add_column("COST", justify="right")
        for run, microusd in list(fleet.by_run.items())[:10]:
            table.add_row(Text(short(UUID(run)), style="bold cyan"), money(microusd))
        console.print()
        console.print(table)


def _print_facts(
    console: Console, costs: Costs, unpriced: tuple[str, ...], first: Mapping[str, str], last: Mapping[str, str]
) -> None:
    total, compared = costs.total, costs.compared
    wasted = f", {money(total.without_answer_microusd)} of the cost" if total.without_answer_microusd else ""
    missed = list(costs.cache_misses.items())[:MOST_MISSES]
    lines = {
        **first,
        "model calls": f"{total.calls:,} answered, {total.calls_without_answer:,} failed or of unknown outcome{wasted}",
        "models": one_line(", ".join(name for name in costs.by_model if name)) or "none",
        "tokens": f"{total.input_tokens:,} in, {total.output_tokens:,} out",
        "prompt cache": (
            f"{total.cache_read_tokens:,} read, {total.cache_write_tokens:,} written; "
            f"{total.hit_rate:.0%} of the prompts' tokens were read"
        ),
        **{f"cache miss {number}": _miss(reason, one) for number, (reason, one) in enumerate(missed, start=1)},
        "saved by caching": _saved(compared.saved_by_caching_microusd, compared.routed_microusd, "without it"),
        "saved by routing": _saved(
            compared.saved_by_routing_microusd, compared.cached_microusd, f"with all by {compared.large_model}"
        ),
        "saved by both": _saved(
            compared.saved_microusd, compared.neither_microusd, f"with all by {compared.large_model}, uncached"
        ),
        "prices of": costs.prices_as_of,
        **last,
    }
    facts = Table(box=None, pad_edge=False, show_header=False)
    for name, value in lines.items():
        facts.add_row(Text(name, style="bold"), Text(value))
    console.print(facts)
    if costs.by_rules_alone:
        console.print(
            Text("No language model answered: nothing was paid, nothing saved. --as-claude prices the same tokens."),
            soft_wrap=True,
        )
    if unpriced:
        names = ", ".join(map(one_line, unpriced))
        console.print(
            Text(f"{names}: no known price, compared at the dearest; set CHARGEHAND_MODEL_PRICES."), soft_wrap=True
        )


def _miss(reason: str, one: Misses) -> str:
    steps = ", ".join(map(one_line, one.steps[:MOST_MISSES])) + (", …" if len(one.steps) > MOST_MISSES else "")
    return f"{one_line(reason)}: {plural(one.calls, 'call')}, {one.tokens:,} tokens" + (f" ({steps})" if steps else "")


def _saved(microusd: int, whole: int, without: str) -> str:
    if not whole:
        return "nothing to save: it would have cost nothing"
    return f"{money(microusd)} ({microusd / whole:.0%} of {money(whole)} {without})"


def _print_group(console: Console, name: str, group: Mapping[str, Totals]) -> None:
    if not group:
        return
    table = Table(box=None, pad_edge=False)
    for column in (name, "CALLS", "IN", "OUT", "CACHE WRITE", "CACHE READ", "HIT", "COST"):
        table.add_column(column, justify="left" if column == name else "right")
    for key, one in list(group.items())[:MOST_LINES]:
        table.add_row(
            Text(one_line(key) or "(corrections)"),
            f"{one.calls + one.calls_without_answer:,}",
            f"{one.input_tokens:,}",
            f"{one.output_tokens:,}",
            f"{one.cache_write_tokens:,}",
            f"{one.cache_read_tokens:,}",
            f"{one.hit_rate:.0%}",
            money(one.cost_microusd),
        )
    if len(group) > MOST_LINES:
        table.add_row(Text(f"and {len(group) - MOST_LINES} more (--json has all)"))
    console.print()
    console.print(table)
