"""What the world outside must have seen of runs that have ended: effects, calls, recoveries, nothing left; pure."""

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterator, Sequence

from chaos.case import RUN_ENDINGS, Case, JournalCall, Tenure, ToolUse, seconds, short
from chaos.evidence import Run, Step, Strike
from chaos.ledger import Call, Effect, Knock

# Scripts of the harness that take effect exactly once when they succeed.
COUNTED_SCRIPTS = frozenset({"count", "deliver", "enclose", "hold", "scribble", "stumble"})
# Run by workers of a user's own app.
OUTSIDE = "celery_task"
# The journal's clock and the ledger's are one machine's; each is read a moment after the fact.
CLOCK_SLACK_SECONDS = 0.05
# Who writes one of these has brought its last call to an end.
ENDS_IN_PEACE = frozenset({"step.released", "step.waiting"})


def effects(case: Case) -> Iterator[str]:
    """One committed effect for each key, announced before it happened, and recorded after it."""
    by_step: dict[str, list[Effect]] = defaultdict(list)
    for effect in case.evidence.effects:
        step = case.named.get((effect.run, effect.step))
        if step is None:
            yield f"an unknown step {effect.step!r} took effect"
        else:
            by_step[str(step.id)].append(effect)
    for step in case.evidence.steps:
        taken = by_step[str(step.id)]
        yield from _repeated(case, step, taken)
        if step.spec["kind"] == OUTSIDE:
            # Nobody of ours claims it.
            continue
        yield from _by_their_holders(case, step, taken)
        if taken and step.epoch == 0:
            yield f"step {step.key!r} took effect and was never claimed"
        if step.spec["kind"] == "script":
            yield from _effects_of_script(case, step, taken)
        else:
            yield from _effects_of_tools(case, step, taken)


def _repeated(case: Case, step: Step, taken: Sequence[Effect]) -> Iterator[str]:
    # Only a person may let an effect happen again that the outside world cannot tell from the first one.
    allowed = 1 + case.was_answered(step, "retry")
    for key, times in Tally(effect.key for effect in taken if effect.kind == "effectful").items():
        if times > allowed:
            yield f"step {step.key!r} took effect {times} times under key {key}, allowed: {allowed}"


def _effects_of_script(case: Case, step: Step, taken: Sequence[Effect]) -> Iterator[str]:
    keys = {effect.key for effect in taken}
    for key in sorted(keys - {str(step.id)}):
        yield f"step {step.key!r} took effect under key {key}, which is not its own"
    counted = step.spec.get("script") in COUNTED_SCRIPTS
    if counted and step.status == "succeeded" and not keys and not case.was_answered(step):
        yield f"step {step.key!r} succeeded and took no effect"


def _effects_of_tools(case: Case, step: Step, taken: Sequence[Effect]) -> Iterator[str]:
    uses = case.tool_uses(step)
    for use in uses:
        if len(use.keys) > 1:
            yield f"step {step.key!r} announced one use of a tool under {len(use.keys)} keys"
        if len(use.results) > 1:
            yield f"step {step.key!r} recorded {len(use.results)} results of one use of a tool"
    of_key: dict[str, ToolUse] = {key: use for use in uses for key in use.keys}
    for effect in taken:
        use = of_key.get(effect.key)
        if use is None:
            yield f"step {step.key!r} took effect under key {effect.key}, which its journal never announced"
        elif seconds(use.announced[0].at) > effect.at + CLOCK_SLACK_SECONDS:
            yield f"step {step.key!r} took effect under key {effect.key} before its journal announced it"
        elif step.status == "succeeded" and not use.results and not case.was_answered(step):
            yield f"step {step.key!r} took effect under key {effect.key}, and its result was never recorded"


def _by_their_holders(case: Case, step: Step, taken: Sequence[Effect]) -> Iterator[str]:
    """Only who has claimed a step takes its effect, and before it ends its claim.

    An effect after that end shows that somebody else has written the end.
    """
    for effect in taken:
        moment = effect.at + CLOCK_SLACK_SECONDS
        own = [
            tenure
            for tenure in case.tenures_of[step.id]
            if tenure.holder_pid == effect.pid and seconds(tenure.claimed.at) <= moment
        ]
        if not own:
            yield f"step {step.key!r} took effect in process {effect.pid}, which had not claimed it"
            continue
        ended = own[-1].ended
        # A thread of this process may be a zombie of the step, and takes effect when it likes.
        if any(_was_lost(tenure) for tenure in own) or ended is None:
            continue
        if effect.at > seconds(ended.at) + CLOCK_SLACK_SECONDS:
            yield (
                f"the holder of epoch {own[-1].claimed.epoch} of step {step.key!r} took effect after row {ended.seq} "
                f"({ended.kind}) had ended its claim: it did not write that row"
            )


def _was_lost(tenure: Tenure) -> bool:
    """Whether somebody else has ended this claim, or may have."""
    ended = tenure.ended
    return ended is not None and (
        ended.kind in {"step.recovered", "step.claimed"} or ended.fact.get("outcome") in {"cancelled", "failed"}
    )


def attempts(case: Case) -> Iterator[str]:
    """Nothing ran more often than it was claimed, nor before what it waits for had taken effect."""
    begun: dict[tuple[str, str], list[float]] = defaultdict(list)
    keys: dict[tuple[str, str], Tally[str]] = defaultdict(Tally)
    for knock in case.evidence.knocks:
        begun[knock.run, knock.step].append(knock.at)
        keys[knock.run, knock.step][knock.key] += 1
    happened: dict[tuple[str, str], float] = {}
    for effect in case.evidence.effects:
        happened.setdefault((effect.run, effect.step), effect.at)
    for step in case.evidence.steps:
        place = (str(step.run), step.key)
        for key, times in keys[place].items():
            if times > step.epoch and step.spec["kind"] != OUTSIDE:
                yield f"step {step.key!r} began {times} times under key {key} in {step.epoch} claims"
        if step.spec["kind"] == "script" and len(keys[place]) > 1:
            yield f"step {step.key!r} knocked with {len(keys[place])} keys"
        if step.spec.get("join", "all") != "all" or not begun[place]:
            continue
        for predecessor in case.before[step.id]:
            before = case.steps[predecessor]
            # Whoever was skipped by a person may be somewhere still, frozen, and take effect when he likes.
            if case.was_answered(before, "skip"):
                continue
            if min(begun[place]) < happened.get((str(before.run), before.key), 0.0):
                yield f"step {step.key!r} began before {before.key!r} had taken effect"


def tasks(case: Case) -> Iterator[str]:
    """A task of a user's own app began under its step's key, after it was asked for, and answered once."""
    begun: dict[tuple[str, str], list[Knock]] = defaultdict(list)
    for knock in case.evidence.knocks:
        begun[knock.run, knock.step].append(knock)
    happened = {(effect.run, effect.step, effect.key) for effect in case.evidence.effects}
    for step in case.evidence.steps:
        if step.spec["kind"] != OUTSIDE:
            continue
        name, place = f"task {step.key!r}", (str(step.run), step.key)
        rows = case.of_step(step)
        asked = [row for row in rows if row.kind == "task.requested"]
        for key in sorted({knock.key for knock in begun[place]} - {str(step.id)}):
            yield f"{name} was sent under key {key}, which is not its step's"
        known = {knock.key for knock in begun[place]}
        taken = {key for run, key_of_step, key in happened if (run, key_of_step) == place}
        for key in sorted(taken - known):
            yield f"{name} took effect under key {key} and never began"
        if begun[place] and not asked:
            yield f"{name} began and was never asked for"
        elif begun[place] and seconds(asked[0].at) > begun[place][0].at + CLOCK_SLACK_SECONDS:
            yield f"{name} began before it was asked for"
        sendings = [row.fact["sending"] for row in rows if row.kind == "task.sent"]
        if sendings != [*range(1, len(sendings) + 1)]:
            yield f"{name} was noted as sent for the times {sendings}"
        answers = [row for row in rows if row.kind == "task.returned"]
        if len(answers) > 1:
            yield f"{name} was answered {len(answers)} times"
        if step.status == "succeeded" and not case.was_answered(step):
            if not answers:
                yield f"{name} succeeded and nothing came back"
            elif (*place, str(step.id)) not in happened:
                yield f"{name} succeeded and took no effect"


def calls(case: Case) -> Iterator[str]:
    """The calls that reached a server are the journal's, but for one in flight a crash, each accounted as spent."""
    arrived: dict[str, list[Call]] = defaultdict(list)
    for call in case.evidence.calls:
        arrived[call.call].append(call)
    for call_id, sent in arrived.items():
        told = case.calls.get(call_id)
        if told is None:
            yield f"call {call_id or '(nameless)'} reached a server and was never reserved"
            continue
        if len(sent) > 1:
            yield f"{told.name} was sent {len(sent)} times"
        if seconds(told.requested.at) > sent[0].received_at + CLOCK_SLACK_SECONDS:
            yield f"{told.name} was sent before it was reserved"
    for call_id, told in case.calls.items():
        yield from _settled_once(case, told)
        yield from _as_the_server_tells(told, arrived.get(call_id, []))
    yield from _in_flight(case)
    yield from _paid_again(case, arrived)


def _settled_once(case: Case, told: JournalCall) -> Iterator[str]:
    times = len(told.answers) + len(told.abandoned)
    if times > 1:
        yield f"{told.name} was settled {times} times"
    for row in told.abandoned:
        if int(row.fact["charged_microusd"]) != told.reserved_microusd:
            yield f"{told.name} reserved {told.reserved_microusd} and was charged {row.fact['charged_microusd']}"


def _as_the_server_tells(told: JournalCall, sent: Sequence[Call]) -> Iterator[str]:
    for row in told.answers:
        if row.kind == "model.responded":
            if not any(call.outcome and call.billed for call in sent):
                yield f"{told.name} has an answer that no server gave"
            elif not any(_tokens(call) == _told_tokens(row.fact["usage"]) for call in sent):
                yield f"{told.name} is settled for other tokens than the server counted"
        elif any(call.billed for call in sent) and told.reserved_microusd and not row.fact["cost_microusd"]:
            yield f"{told.name} was billed by the server and settled at nothing"


def _tokens(call: Call) -> tuple[int, ...]:
    return call.input_tokens, call.output_tokens, call.cache_write_tokens, call.cache_read_tokens


def _told_tokens(usage: dict[str, int]) -> tuple[int, ...]:
    return tuple(
        usage.get(name, 0) for name in ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")
    )


def _in_flight(case: Case) -> Iterator[str]:
    """At most one call without an answer for each claim that was cut off; what it had reserved is spent."""
    flying: dict[tuple[str, int], list[JournalCall]] = defaultdict(list)
    owed: dict[str, int] = defaultdict(int)
    for told in case.calls.values():
        if told.answers:
            continue
        flying[str(told.step.id), told.requested.epoch].append(told)
        if not told.abandoned:
            owed[str(told.step.id)] += told.reserved_microusd
    for open_calls in flying.values():
        if len(open_calls) > 1:
            yield f"{open_calls[0].name} and {len(open_calls) - 1} more were in flight under one claim"
    for tenure in case.tenures:
        open_calls = flying.get((str(tenure.step.id), tenure.claimed.epoch), [])
        if open_calls and tenure.ended is not None and _in_peace(tenure):
            yield f"{open_calls[0].name} was given up by a worker that lived ({tenure.ended.kind})"
    for step in case.evidence.steps:
        charged = case.charged.get(step.id, 0)
        if case.runs[step.run].status in RUN_ENDINGS and owed[str(step.id)] != charged:
            yield f"step {step.key!r} left {owed[str(step.id)]} in flight at its end, and {charged} was charged"


def _in_peace(tenure: Tenure) -> bool:
    ended = tenure.ended
    assert ended is not None
    # A crash that asks a person is a wait, too; `step.recovered` stands before it.
    return ended.kind in ENDS_IN_PEACE or (ended.kind == "step.finished" and ended.fact["outcome"] == "succeeded")


def _paid_again(case: Case, arrived: dict[str, list[Call]]) -> Iterator[str]:
    answered: dict[tuple[str, str], list[JournalCall]] = defaultdict(list)
    for call_id, told in case.calls.items():
        if any(row.kind == "model.responded" for row in told.answers):
            for call in arrived.get(call_id, [])[:1]:
                answered[str(told.step.id), call.prompt_hash].append(told)
    for same in answered.values():
        if len(same) > 1:
            yield f"step {same[0].step.key!r} paid {len(same)} times for the answer to one prompt"


def recoveries(case: Case) -> Iterator[str]:
    """What a killed process held ran again within a lease and a margin after the last strike in its way.

    Where more is ready than a pool has places for, it also waits its turn: as long as the others there did meanwhile,
    or as the messages take that may lie before its own.
    """
    most = case.recovery_seconds
    for strike in case.evidence.strikes:
        if strike.pid is None:
            continue
        for tenure in case.tenures_by_pid.get(strike.pid, []):
            if not tenure.held_at(strike.at):
                continue
            again = _taken_up(case, tenure, strike.at)
            if again is not None:
                mended = _last_disturbance(case, strike, case.runs[tenure.step.run], again)
                gap = again - mended
                turn = case.turn(tenure.step, struck=strike.at, mended=mended, again=again) if gap > most else 0.0
                if gap > most + turn:
                    yield (
                        f"step {tenure.step.key!r} ran again {gap:.1f} s after its process was killed or the last "
                        f"strike that was in its way, allowed: {most:g} s, and {turn:.1f} s as the others waited there"
                        + "; "
                        + _what_it_waited_for(case, tenure, strike.at, again)
                    )


def _what_it_waited_for(case: Case, tenure: Tenure, struck: float, again: float) -> str:
    """As far as the journal tells: for being found, or for a place, and whether its pool took others meanwhile."""
    rows = case.of_step(tenure.step)
    found = [row for row in rows if row.kind == "step.recovered" and struck <= seconds(row.at) <= again]
    pool = tenure.step.spec.get("pool")
    since = seconds(found[-1].at) if found else struck
    others = sum(
        1 for other in case.tenures if other.step.spec.get("pool") == pool and since < seconds(other.claimed.at) < again
    )
    last = max((strike for strike in case.evidence.strikes if strike.at < again), key=lambda strike: strike.until)
    told = [f"found lost ({row.fact.get('cause')}) after {seconds(row.at) - struck:.1f} s" for row in found] or [
        "never found lost"
    ]
    return (
        f"{', '.join(told)}, then not taken for {again - since:.1f} s in which pool {pool!r} took {others} others; "
        f"the last strike before was {last.what!r}, over {again - last.until:.1f} s before"
    )


def _taken_up(case: Case, tenure: Tenure, after: float) -> float | None:
    """When somebody, a worker or a person, had the step again; or it ended without them."""
    taken = {"step.claimed", "step.waiting", "step.finished"}
    rows = case.of_step(tenure.step)
    return next((seconds(row.at) for row in rows if row.kind in taken and seconds(row.at) > after), None)


def _last_disturbance(case: Case, strike: Strike, run: Run, again: float) -> float:
    others = [other.until for other in case.evidence.strikes if other.at < again and other.until >= strike.at]
    resumed = [seconds(row.at) for row in case.of_run(run) if row.kind == "run.resumed"]
    return min(again, max([strike.at, *others, *(at for at in resumed if strike.at <= at < again)]))


def nothing_left(case: Case) -> Iterator[str]:
    """No process, clone or sandbox outlived its attempt."""
    yield from case.evidence.leftovers


def strangers(case: Case) -> Iterator[str]:
    """Nothing was reported of a run that nobody made."""
    for run in sorted(case.evidence.reported - {str(run) for run in case.evidence.accepted}):
        yield f"run {short(run)} was reported of and does not exist"
