"""`chargehand up`: everything on this machine until Ctrl-C."""

import os
import time
from collections.abc import Mapping

import typer
from rich.text import Text

from chargehand.orchestrator.cli.terminal import AsJson, answers, notes, plain, print_json
from chargehand.orchestrator.laptop import Laptop, api_key, up
from chargehand.orchestrator.laptop.flower_password import password_file
from chargehand.orchestrator.laptop.specs import MODEL_VARIABLES, needs_offline_model
from chargehand.orchestrator.schema import migrate
from chargehand.orchestrator.settings import Settings, default_home, load_settings

app = typer.Typer()

# Not one `signal.pause`: a signal that comes between the interpreter's last look and the system call is seen after it.
LOOK_SECONDS = 0.5


@app.command("up")
def up_command(as_json: AsJson = False) -> None:
    """Start databases, supervisor, pools, API and Flower on this machine until Ctrl-C.

    Servers that CHARGEHAND_DATABASE_URL and CHARGEHAND_REDIS_URL name are used instead of embedded ones.
    """
    settings = load_settings()
    try:

        def prepare(database_url: str) -> None:
            migrate(database_url)
            api_key.api_key(settings, database_url)

        with up(settings, migrate=prepare, progress=say) as laptop:
            if as_json:
                print_json(facts_of(laptop, settings))
            else:
                _welcome(laptop, settings)
            while True:
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        # The intended end: everything is down, and nothing went wrong.
        return


def say(line: str) -> None:
    """What is being started, died or stopped."""
    notes().print(Text.assemble(("· ", "dim"), (plain(line), "dim")), soft_wrap=True)


def facts_of(laptop: Laptop, settings: Settings) -> Mapping[str, object]:
    """What a program needs to know of what is up; no URL here carries a password."""
    state = laptop.state
    return {
        "home": settings.home,
        "pid": state.pid,
        "api_url": state.api_url,
        "api_key_file": api_key.key_file(settings),
        "flower_url": state.flower_url,
        "flower_user": settings.flower_user,
        "flower_password_file": None if settings.flower_password.get_secret_value() else password_file(settings),
        "offline_model": needs_offline_model(os.environ),
        "processes": state.pids,
    }


def model_line(environment: Mapping[str, str]) -> str:
    """What answers the agents, in words."""
    if needs_offline_model(environment):
        return f"offline rules, no language model ({MODEL_VARIABLES[0]} or {MODEL_VARIABLES[2]} would name one)"
    return environment.get("ANTHROPIC_BASE_URL") or "Anthropic's API"


def _welcome(laptop: Laptop, settings: Settings) -> None:
    console = answers()
    state = laptop.state
    made = not settings.flower_password.get_secret_value()
    password = f"password in {password_file(settings)}" if made else "password as in CHARGEHAND_FLOWER_PASSWORD"
    console.print()
    console.print(Text(f"Chargehand is up in {settings.home}.", style="bold green"), soft_wrap=True)
    # Other terminals look in the default place unless they are told.
    elsewhere = [("Home", f"export CHARGEHAND_HOME={settings.home}   (in other terminals)")]
    for name, value in (
        *(elsewhere if settings.home != default_home() else ()),
        ("API", f"{state.api_url}/v1  key in {api_key.key_file(settings)}"),
        ("", f'curl -H "Authorization: Bearer $(cat {api_key.key_file(settings)})" {state.api_url}/v1/runs'),
        ("Flower", f"{state.flower_url}  user {settings.flower_user}, {password}"),
        ("Model", model_line(os.environ)),
        ("Logs", f"{settings.home / 'logs'}"),
        ("Try", 'chargehand run "Audit this repository" --workspace PATH'),
        ("Stop", "Ctrl-C"),
    ):
        console.print(Text.assemble((f"  {name:<8}", "dim"), plain(value)), soft_wrap=True)
