"""`chargehand logs`: the journal of a run as lines."""

import json
from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.terminal import AsJson, RunName, answers, jsonable, one_line
from chargehand.orchestrator.client import Client, RunHandle
from chargehand.orchestrator.facts import (
    AnyFact,
    BreakerTripped,
    BudgetRaised,
    BudgetWarned,
    CallAbandoned,
    ModelFailed,
    ModelRequested,
    ModelResponded,
    OutputsEvicted,
    PlanPatched,
    ReservationsCharged,
    ReservationsReturned,
    RunFinished,
    RunPaused,
    RunSubmitted,
    RunTold,
    SignalReceived,
    StateRefreshed,
    StepClaimed,
    StepFinished,
    StepForked,
    StepRecovered,
    StepReleased,
    StepsAnchored,
    StepsSkipped,
    StepTold,
    StepWaiting,
    TaskRequested,
    TaskReturned,
    TaskSent,
    ToolFinished,
    ToolStarted,
)
from chargehand.orchestrator.views import Event

BAD_KINDS = frozenset({"model.failed", "call.abandoned", "breaker.tripped", "step.recovered"})
STEP_WIDTH = 20
KIND_WIDTH = 16

app = typer.Typer()


@app.command()
def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    step: Annotated[str | None, typer.Option(metavar="STEP", help="Only of the step with this key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what happened in a run, fact by fact.

    Each line is a row of the journal; with --json, one object a line, whole.
    """
    console = answers()
    with Client() as client:
        handle = client.run(run)
        keys: dict[UUID, str] = {}
        try:
            for event in handle.events(follow=follow):
                name = _name(handle, event, keys)
                if step is not None and name != step:
                    continue
                if as_json:
                    console.file.write(json.dumps(document(event, name), default=jsonable) + "\n")
                    console.file.flush()
                else:
                    console.print(line_of(event, name), soft_wrap=True)
        except KeyboardInterrupt:
            raise typer.Exit(exits.INTERRUPTED) from None


def _name(handle: RunHandle, event: Event, keys: dict[UUID, str]) -> str:
    """The key of the event's step; the graph may have grown since the last look."""
    if event.step_id is None:
        return ""
    if event.step_id not in keys:
        keys.update((step.step_id, step.key) for step in handle.steps())
    return keys.get(event.step_id, str(event.step_id))


def document(event: Event, step_key: str) -> Mapping[str, object]:
    """The event for a program."""
    return {
        "run_id": event.run_id,
        "step": step_key or None,
        "seq": event.seq,
        "at": event.at,
        "kind": event.kind,
        "fact": event.fact.model_dump(mode="json") if event.fact is not None else None,
    }


def line_of(event: Event, step_key: str) -> Text:
    """The event for a person."""
    time = event.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    said = gist(event.fact) if event.fact is not None else "(erased)"
    return Text.assemble(
        (f"{time} ", "dim"),
        (f"{one_line(step_key, STEP_WIDTH):<{STEP_WIDTH}} ", "bold"),
        (f"{event.kind:<{KIND_WIDTH}} ", "red" if event.kind in BAD_KINDS else "cyan"),
        one_line(said, 400),
    )


def gist(fact: AnyFact) -> str:
    """What matters of a fact, in a few words."""
    match fact:
        case RunSubmitted():
            return fact.goal or f"a plan of {len(fact.plan.steps)} steps"
        case PlanPatched():
            lists = {
                "added": [step.key for step in fact.patch.add],
                "dropped": fact.patch.drop,
                "superseded": fact.patch.supersede,
            }
            changed = "".join(f", {verb}: {', '.join(keys)}" for verb, keys in lists.items() if keys)
            return f"version {fact.plan_version}{changed}" + (f" ({fact.reason})" if fact.reason else "")
        case RunPaused():
            return fact.reason
        case BudgetRaised():
            return f"to ${fact.budget_microusd / 1e6:g}"
        case BudgetWarned():
            return f"{fact.percent}% of ${fact.budget_microusd / 1e6:g} are spent"
        case StepsSkipped():
            return f"{len(fact.steps)} {fact.outcome}: {fact.reason}"
        case StepsAnchored():
            return f"{len(fact.anchors)} heads"
        case ReservationsCharged():
            return f"{sum(fact.charged_microusd.values())} micro-dollars of unknown outcome"
        case ReservationsReturned():
            return f"{sum(fact.returned_microusd.values())} micro-dollars, by {len(fact.calls)} answers that came late"
        case RunTold():
            return fact.message
        case RunFinished():
            return f"{fact.outcome} {fact.reason}"
        case StepForked():
            return f"{len(fact.facts)} facts taken over from {fact.origin.run}, {fact.origin.step}:{fact.origin.seq}"
        case StepClaimed():
            return f"by {fact.holder}{', whose predecessor was lost' if fact.takeover else ''}"
        case StepReleased():
            return f"{fact.reason} {fact.detail}"
        case StepRecovered(cause="outage"):
            return "Postgres was away for longer than its lease"
        case StepRecovered():
            back = f", {len(fact.cut_off)} before it had only been cut off" if fact.cut_off else ""
            return (
                f"its worker was lost ({fact.crashes} in a row{back}){', runs alone from now on' if fact.solo else ''}"
            )
        case StepWaiting():
            return f"{fact.reason}: {fact.question}"
        case SignalReceived():
            return f"{fact.choice} by {fact.by}" if fact.by else fact.choice
        case ModelRequested():
            return f"turn {fact.turn} {fact.model} ({fact.routed_because})"
        case ModelResponded():
            used = f"{fact.usage.input_tokens} in, {fact.usage.output_tokens} out"
            return f"{fact.model} {fact.stop_reason}, {used}, {fact.cost_microusd} micro-dollars, {fact.duration_ms} ms"
        case ModelFailed():
            return fact.error
        case CallAbandoned():
            return f"outcome unknown, charged {fact.charged_microusd} micro-dollars"
        case ToolStarted():
            return f"{fact.tool} ({fact.effect})"
        case ToolFinished():
            return f"{fact.tool} {fact.outcome}: {one_line(fact.content, 200)}"
        case TaskRequested():
            return f"{fact.task} on queue {fact.queue}, id and key {fact.task_id}"
        case TaskSent():
            return f"{fact.task_id}, sending {fact.sending}"
        case TaskReturned():
            return f"{fact.outcome}, says {fact.by} {fact.detail}"
        case StepTold():
            return f"heard: {' / '.join(fact.messages)}"
        case OutputsEvicted():
            return f"about {fact.tokens:,} tokens; left out: {', '.join(fact.tool_use_ids)}"
        case StateRefreshed():
            replaced = (f"{one.key} {one.seen_version} → {one.version}" for one in fact.values)
            return f"shared state: {', '.join(replaced)}"
        case BreakerTripped():
            return f"{fact.rule}: {fact.detail}"
        case StepFinished():
            origin = f" (taken over from run {fact.copied_from.run})" if fact.copied_from is not None else ""
            return f"{fact.outcome} {fact.error}{origin}"
        case _:
            return ""
