"""What matters of a fact, in a few words: for the command line and for pages; pure."""

from chargehand.orchestrator.facts import (
    AnyFact,
    BatchSubmitted,
    BreakerTripped,
    BudgetRaised,
    BudgetWarned,
    CallAbandoned,
    JoinsWon,
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

# Of what a tool gave: it may be long, and a line is not.
SHOWN_CHARACTERS = 200
MOST_CHARACTERS = 2_000


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
        case JoinsWon():
            return ", ".join(f"{join} goes on with {winner}" for join, winner in fact.winners.items())
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
        case ModelRequested() if fact.summarises:
            turns = "turn" if fact.summarises == 1 else f"{fact.summarises} turns"
            return f"summary of the first {turns} {fact.model} ({fact.routed_because})"
        case ModelRequested():
            return f"turn {fact.turn} {fact.model} ({fact.routed_because})"
        case ModelResponded():
            used = f"{fact.usage.input_tokens} in, {fact.usage.output_tokens} out"
            return f"{fact.model} {fact.stop_reason}, {used}, {fact.cost_microusd} micro-dollars, {fact.duration_ms} ms"
        case ModelFailed():
            return fact.error
        case BatchSubmitted():
            return f"batch {fact.batch_id}"
        case CallAbandoned():
            return f"outcome unknown, charged {fact.charged_microusd} micro-dollars"
        case ToolStarted():
            return f"{fact.tool} ({fact.effect})"
        case ToolFinished():
            said = " ".join(fact.content[:MOST_CHARACTERS].split())
            return f"{fact.tool} {fact.outcome}: {said[:SHOWN_CHARACTERS]}"
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
