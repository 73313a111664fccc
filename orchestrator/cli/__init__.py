"""The command `chargehand`: one small file a group of commands, imported when it is called."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
import typer.main

from chargehand.orchestrator.cli import completing, exits
from chargehand.orchestrator.cli.lazy import Entry, LazyGroup

_WORK, _RUNS, _PEOPLE, _PROOF = "Work", "Look at and steer runs", "Answer questions", "Check and prove"

_RUN, _STEP = ("run",), ("run", "step")
_TAKES = {
    **dict.fromkeys(("status", "result", "cost", "logs", "cancel", "pause", "resume", "budget", "tell", "apply"), _RUN),
    **dict.fromkeys(("escalations", "erase", "replay", "fork"), _RUN),
    **dict.fromkeys(("explain", "resolve", "retry"), _STEP),
}


class _Chargehand(LazyGroup):
    entries = {  # noqa: RUF012 - set once, by the class itself
        name: Entry(module=module, panel=panel, summary=summary, takes=_TAKES.get(name, ()))
        for panel, module, name, summary in (
            (_WORK, "demo", "demo", "Run the main job on a demo repository, or on yours, with everything it needs."),
            (_WORK, "laptop", "up", "Start databases, supervisor, pools, API and Flower on this machine until Ctrl-C."),
            (_WORK, "api", "api", "Serve the HTTP API until Ctrl-C."),
            (_WORK, "submit", "run", "Give a goal (or a plan) to the agents and watch them until the result is there."),
            (_WORK, "plan", "plan", "Check or draw a plan."),
            (_WORK, "schedule", "schedule", "Ask for runs by the clock."),
            (_WORK, "patch", "apply", "Apply the changes of a run to your working tree."),
            (_WORK, "fork", "fork", "Start a run from where another one stood, with something changed."),
            (_WORK, "memory", "memory", "Search, fill and empty what agents remember."),
            (_RUNS, "status", "status", "List the newest runs, or show one with its steps."),
            (_RUNS, "status", "result", "Show what a run came to and write its files."),
            (
                _RUNS,
                "status",
                "explain",
                "Say why each unfinished step of a run does not go on, and what would free it.",
            ),
            (_RUNS, "cost", "cost", "Show where the money of a run, or of all, went."),
            (_RUNS, "events", "logs", "Print what happened in a run, fact by fact."),
            (_RUNS, "control", "cancel", "End a run now."),
            (_RUNS, "control", "pause", "Start nothing new in a run and stop its steps at their next turn."),
            (_RUNS, "control", "resume", "Let a paused run go on, or what was paused for the whole fleet."),
            (_RUNS, "top", "top", "Show the fleet as it is: pools, runs under way, questions, and what waits longest."),
            (_RUNS, "fleet", "switches", "List the roles, tools and models that are paused for the whole fleet."),
            (_RUNS, "fleet", "circuits", "List the circuits around tools and models, and why they are open."),
            (_RUNS, "control", "budget", "Let a run spend more."),
            (
                _RUNS,
                "caps",
                "caps",
                "Show or set what all runs of a tenant together may spend, and their calls, tokens and time of agents.",
            ),
            (_RUNS, "control", "tell", "Leave a message for the agents of a run."),
            (_PEOPLE, "questions", "escalations", "List what agents ask people."),
            (_PEOPLE, "questions", "resolve", "Answer the question that a step waits for."),
            (_PEOPLE, "webhooks", "webhooks", "Tell your servers of escalations, ends of runs and budgets."),
            (
                _PEOPLE,
                "questions",
                "retry",
                "Do a step once more, with all that was built on it; or let one that asks for help try again.",
            ),
            (_PEOPLE, "keys", "keys", "Make, list and revoke keys of the HTTP API."),
            (_PROOF, "audit", "audit", "Verify or export the journal."),
            (_PROOF, "erase", "erase", "Erase what a run said, and every copy of it."),
            (
                _PROOF,
                "replay",
                "replay",
                "Do a run again from its journal, without models or effects, and name the first divergence.",
            ),
            (_PROOF, "doctor", "doctor", "Check that everything Chargehand needs is there and fits together."),
            (_PROOF, "metrics", "metrics", "Print the metrics of the fleet as Prometheus reads them, or serve them."),
            (_PROOF, "roles", "roles", "List, show, check and compare the roles that agents can have."),
        )
    }


app = typer.Typer(
    name="chargehand",
    cls=_Chargehand,
    help="Give a goal to a team of agents on Celery, Redis and Postgres, and prove afterwards what they did.",
    epilog=exits.epilogue(),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """A group needs a callback to be one; the commands are in `_Chargehand.entries`."""


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str]) -> int:
    """Run one command; gives its exit code, and an error as one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        getattr(stream, "reconfigure", _nothing)(errors="backslashreplace")
    try:
        outcome = typer.main.get_command(app).main(list(arguments), prog_name="chargehand", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # `chargehand logs | head`: the reader has seen enough, and Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the entry point: whatever it is becomes one line
        if completing.is_asked():
            # What a shell asks about is half written; an error would be printed into the middle of it.
            return exits.OK
        failures = importlib.import_module("chargehand.orchestrator.cli.failures")
        return int(failures.report(error))
    return outcome if isinstance(outcome, int) else exits.OK


def _nothing(**_: Any) -> None:
    """A captured stream has no encoding to change."""
