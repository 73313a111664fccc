"""The loop detectors held against labelled traces: what they find, what they mistake for a loop, what a look costs."""

import json
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmarks.figures import Figure, percentile
from chargehand.orchestrator.breaker import LIMITS, Limits, Observed, Trip, watch
from chargehand.orchestrator.facts import ToolFinished

TRACES = Path(__file__).parents[1] / "tests" / "data" / "loops"
# By people who never read a detector, kept as they wrote them.
BY_OTHERS = (
    "judge",
    "real",
    "last",
    "final",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
)
# Limits and words were chosen on the first; the others are other trades, other tools and other people's reports.
SETS = (
    "tuned",
    "held_out",
    "unseen",
    "reported",
    "probed",
    "designed",
    "sealed",
    "wide",
    "wide_sealed",
    "staged",
    "lists",
    "field",
    "field_sealed",
    "crossed",
    "crossed_sealed",
    "daily",
    "daily_sealed",
    *BY_OTHERS,
)
SMALLEST_SET = 200
# What a call and its result may be sent in; it may not matter.
DISGUISES = (
    *("colours", "blocks", "process", "logged", "request_id", "not_an_error", "explained", "nested", "as_text"),
    *("sent_with", "came_by"),
)
LEAST_RECALL = 0.99
MOST_FALSE_TRIPS = 0.005
MOST_WASTED = 3
MOST_LOOK_MS = 1.0
# What a family's limits are chosen from when it is left out: each limit one more, one less, or as it is.
NEIGHBOURS = {
    "same_error": (2, 4),
    "patience": (0, 2),
    "near_identical": (4, 6),
    "beyond_the_end": (5, 7),
    "rounds": (3,),
    "hand_off_rounds": (3,),
    "no_change": (5, 7),
    "same_end": (4, 6),
    "unmoved": (4, 6),
}
# What is a word; letters among digits are a machine's name, and three words belong to the notation.
_A_WORD = re.compile(r"(?<![^\W_])(?!(?:true|false|null)(?![^\W_]))[^\W\d_]{2,}(?![^\W_])")
# Long steps with large results; of one alone the hundredth part is no look.
LOOKED_AT_STEPS = 20
LOOKED_AT_TURNS, CALLS_A_TURN, WORDS_A_RESULT = 15, 6, 300


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Calls of one run in their order, and what a person says of them."""

    name: str
    family: str
    kind: str
    """`work`, or what kind of loop it is."""
    first: int | None
    """Index of the loop's first call; None: no loop."""
    at: int | None
    """Index of the call at which a person would say "this is a loop"."""
    calls: tuple[Observed, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the detectors made of one trace."""

    trace: Trace
    trip: Trip | None
    index: int
    """Of the call at which they tripped; -1: they did not."""

    @property
    def false(self) -> bool:
        """Whether work was called a loop."""
        return self.trip is not None and (self.trace.first is None or self.index < self.trace.first)

    @property
    def found(self) -> bool:
        """Whether a loop was found."""
        return self.trip is not None and not self.false

    @property
    def wasted(self) -> int:
        """Calls of the run after the one at which a person would have said it."""
        return max(0, self.index - self.trace.at) if self.found and self.trace.at is not None else 0


@dataclass(frozen=True, kw_only=True)
class Score:
    """Verdicts counted."""

    loops: int
    found: int
    found_at_once: int
    """At the call at which a person would have said it, or before."""
    work: int
    false: int
    """Trips in work, and in a loop's trace before the loop."""
    wasted: tuple[int, ...]
    """Of each loop that was found."""

    @property
    def recall(self) -> float:
        """Loops that were found."""
        return self.found / self.loops if self.loops else 1.0

    @property
    def false_trip_rate(self) -> float:
        """Traces of work that were called a loop."""
        return self.false / self.work if self.work else 0.0


def measure() -> Iterator[Figure]:
    """Every set, every family left out, a language without known words, and the time of a look."""
    traces = {name: load(name) for name in SETS}
    for name, those in traces.items():
        verdicts = [judge(trace) for trace in those]
        _show_families(name, verdicts)
        # One miss in so few is more than a hundredth.
        yield from _figures(name, count(verdicts), promised=len(those) >= SMALLEST_SET)
    every = [trace for those in traces.values() for trace in those]
    yield from _figures("all", count([judge(trace) for trace in every]), promised=True)
    yield from _figures("left_out", leave_families_out(every), promised=True)
    disguises = [judge(disguised(trace, disguise)) for disguise in DISGUISES for trace in traces["tuned"]]
    yield from _figures("disguised", count(disguises), promised=True)
    yield from _figures("no_word_known", count([judge(without_known_words(trace)) for trace in every]), promised=False)
    looks = [look for seed in range(LOOKED_AT_STEPS) for look in time_looks(seed)]
    yield _figure("look_p50_ms", percentile(looks, 50), "ms")
    yield _figure("look_p99_ms", percentile(looks, 99), "ms", MOST_LOOK_MS)


def load(name: str) -> list[Trace]:
    """The traces of one set."""
    lines = (TRACES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [parse(json.loads(line)) for line in lines]


def parse(line: Mapping[str, Any]) -> Trace:
    """A trace from its line; `tests/data/loops/README.md` says what stands there."""
    turns: dict[str, int] = defaultdict(int)
    calls = []
    for index, call in enumerate(line["calls"]):
        step = call.get("step", "a")
        turns[step] += 0 if call.get("together") else 1
        failed = "error" in call
        fact = ToolFinished(
            tool_use_id=f"t{index}",
            tool=call["tool"],
            arguments=call["args"],
            outcome="error" if failed else "ok",
            content=call["error"] if failed else call["ok"],
            error_type=call.get("type", "ToolRetry") if failed else "",
            commit=call.get("commit"),
        )
        role = call.get("role", "coder")
        calls.append(Observed(step=step, seq=index + 1, fact=fact, role=role, turn=turns[step]))
    return Trace(
        name=f"{line['family']} {line['seed']}",
        family=line["family"],
        kind=line["kind"],
        first=line.get("first"),
        at=line.get("at"),
        calls=tuple(calls),
    )


def judge(trace: Trace, limits: Limits = LIMITS) -> Verdict:
    """Look after each call, as the agent loop does, until something trips."""
    for index in range(len(trace.calls)):
        trip = watch(trace.calls[: index + 1], limits)
        if trip is not None:
            return Verdict(trace=trace, trip=trip, index=index)
    return Verdict(trace=trace, trip=None, index=-1)


def count(verdicts: Sequence[Verdict]) -> Score:
    """The verdicts as numbers."""
    loops = [verdict for verdict in verdicts if verdict.trace.first is not None]
    found = [verdict for verdict in loops if verdict.found]
    return Score(
        loops=len(loops),
        found=len(found),
        found_at_once=sum(verdict.wasted == 0 for verdict in found),
        work=len(verdicts) - len(loops),
        false=sum(verdict.false for verdict in verdicts),
        wasted=tuple(verdict.wasted for verdict in found),
    )


def leave_families_out(traces: Sequence[Trace]) -> Score:
    """Each family judged with the limits that are best for all the others, wherever those lie."""
    choices = [LIMITS, *(replace(LIMITS, **{name: value}) for name, values in NEIGHBOURS.items() for value in values)]
    verdicts: list[dict[str, list[Verdict]]] = []
    for limits in choices:
        by_family: dict[str, list[Verdict]] = defaultdict(list)
        for trace in traces:
            by_family[trace.family].append(judge(trace, limits))
        verdicts.append(by_family)
    costs = [{family: _cost(those) for family, those in choice.items()} for choice in verdicts]
    left_out: list[Verdict] = []
    for family in verdicts[0]:
        rest = [_add(cost for name, cost in choice.items() if name != family) for choice in costs]
        left_out += verdicts[rest.index(min(rest))][family]
    return count(left_out)


def without_known_words(trace: Trace) -> Trace:
    """The trace in a language that nobody speaks: every word another, everywhere the same."""
    return replace(
        trace,
        calls=tuple(
            replace(
                call,
                step=_foreign(call.step),
                role=_foreign(call.role),
                fact=call.fact.model_copy(
                    update={
                        "content": _foreign(call.fact.content),
                        "arguments": {key: _foreign_value(value) for key, value in call.fact.arguments.items()},
                    }
                ),
            )
            for call in trace.calls
        ),
    )


def disguised(trace: Trace, disguise: str) -> Trace:
    """The trace as other servers would send it: everything that was asked and given is still there."""
    rng = random.Random(f"{trace.name} {disguise}")
    return replace(trace, calls=tuple(replace(call, fact=_disguised(call.fact, disguise, rng)) for call in trace.calls))


def _disguised(fact: ToolFinished, disguise: str, rng: random.Random) -> ToolFinished:
    failed, content, arguments = fact.outcome == "error", fact.content, fact.arguments
    request, clock = f"{rng.getrandbits(48):012x}", f"2026-11-25T{rng.randint(10, 23)}:{rng.randint(10, 59)}:07Z"
    outcome = fact.outcome
    if disguise == "colours":
        content = f"\x1b[3{rng.randint(1, 7)}m" + content.replace("\n", "\x1b[0m\n\x1b[1m") + "\x1b[0m"
    elif disguise == "blocks":
        meta = {"requestId": request, "serverTime": clock}
        content = json.dumps({"content": [{"type": "text", "text": content}], "isError": failed, "_meta": meta})
    elif disguise == "process":
        out, err = ("", content) if failed else (content, "")
        content = json.dumps(
            {"stdout": out, "stderr": err, "returncode": int(failed), "duration_ms": rng.randint(1, 900)}
        )
        outcome = "ok"
    elif disguise == "logged":
        content = f"[{clock}] {content}"
    elif disguise == "request_id":
        content = f"{content}\n(request_id={request}, took {rng.randint(3, 900)}ms)"
    elif disguise == "not_an_error" and failed:
        content, outcome = f"Error: {content}", "ok"
    elif disguise == "explained":
        why = " ".join(
            rng.choice(("run", "this", "again", "now", "to", "see", "whether", "it", "works")) for _ in range(6)
        )
        arguments = {**arguments, "explanation": why, "request_id": request}
    elif disguise == "sent_with":
        arguments = {**arguments, "_meta": {"progressToken": rng.randint(1, 9_999)}, "timestamp": clock}
    elif disguise == "came_by":
        content = f"[{rng.randint(1_000, 60_000)}] {content}\n(via 127.0.0.1:{rng.randint(9_000, 60_000)})"
    elif disguise == "nested":
        arguments = {"input": arguments, "options": {}}
    elif disguise == "as_text":
        arguments = {"arguments": json.dumps(arguments)}
    return fact.model_copy(update={"content": content, "arguments": arguments, "outcome": outcome})


def time_looks(seed: int) -> list[float]:
    """The CPU time in ms of the look after each call of a long step whose results are all new."""
    rng = random.Random(seed)
    calls: list[Observed] = []
    looks = []
    for index in range(LOOKED_AT_TURNS * CALLS_A_TURN):
        text = " ".join("".join(rng.choice("abcdefgh2") for _ in range(6)) for _ in range(WORDS_A_RESULT))
        fact = ToolFinished(
            tool_use_id=f"t{index}",
            tool=rng.choice(("read_file", "grep", "bash")),
            arguments={"path": f"src/handlers/{text[:12]}.py", "first_line": index},
            outcome="ok" if index % 5 else "error",
            content=text,
            error_type="" if index % 5 else "ToolRetry",
        )
        calls.append(Observed(step="a", seq=index, fact=fact, role="coder", turn=index // CALLS_A_TURN))
        began = time.thread_time()
        watch(calls)
        looks.append((time.thread_time() - began) * 1_000)
    return looks


def _foreign(text: str) -> str:
    return _A_WORD.sub(lambda found: _foreign_word(found[0].lower()), text)


@cache
def _foreign_word(word: str) -> str:
    rng = random.Random(word)
    return "".join(rng.choice("bcdfghjklmnpqrstvwz") + rng.choice("aeiou") for _ in range(len(word) // 2 + 2))


def _foreign_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _foreign_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_foreign_value(inner) for inner in value]
    return _foreign(value) if isinstance(value, str) else value


def _figures(name: str, score: Score, *, promised: bool) -> Iterator[Figure]:
    wasted = score.wasted or (0,)
    recall, false, most = (LEAST_RECALL, MOST_FALSE_TRIPS, MOST_WASTED) if promised else (None, None, None)
    yield _figure(f"{name}_recall", score.recall, "share", recall, better="higher")
    yield _figure(f"{name}_false_trips", score.false_trip_rate, "share", false)
    yield _figure(f"{name}_wasted_max", max(wasted), "calls", most)
    yield _figure(f"{name}_wasted_mean", sum(wasted) / len(wasted), "calls")
    yield _figure(f"{name}_found_at_once", score.found_at_once / score.loops, "share", better="higher")


def _cost(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    score = count(verdicts)
    too_late = sum(wasted > MOST_WASTED for wasted in score.wasted)
    return score.loops - score.found + score.false + too_late, sum(score.wasted)


def _add(costs: Iterator[tuple[int, int]]) -> tuple[int, int]:
    wrong, wasted = zip(*costs, strict=True)
    return sum(wrong), sum(wasted)


def _show_families(name: str, verdicts: Sequence[Verdict]) -> None:
    families: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        families[verdict.trace.kind, verdict.trace.family].append(verdict)
    for (kind, family), those in families.items():
        score = count(those)
        if score.loops:
            said = f"found {score.found} of {score.loops}, wasted at most {max(score.wasted, default=0)}"
        else:
            said = f"false trips {score.false} of {score.work}"
        rules = ", ".join(sorted({verdict.trip.rule for verdict in those if verdict.trip is not None}))
        print(f"  {name:9} {kind:15} {family:24} {said:32} {rules}".rstrip(), file=sys.stderr)


def _figure(
    name: str, value: float, unit: str, target: float | None = None, *, better: Literal["lower", "higher"] = "lower"
) -> Figure:
    return Figure(name=f"breaker_{name}", value=value, unit=unit, durability="memory", target=target, better=better)
