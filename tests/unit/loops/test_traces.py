"""The loop detectors on labelled traces: what they promise, and what may not matter to them."""

import random
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from loops import __main__ as generator

from benchmarks.breaker import (
    BY_OTHERS,
    DISGUISES,
    LEAST_RECALL,
    MOST_FALSE_TRIPS,
    MOST_WASTED,
    SETS,
    TRACES,
    Trace,
    Verdict,
    count,
    disguised,
    judge,
    load,
)
from chargehand.orchestrator.breaker import Observed, watch
from chargehand.orchestrator.facts import ToolFinished

KINDS = {"identical", "near_identical", "alternating", "ping_pong", "stuck_state", "work"}
# Known to be mistaken: the first seven objects of a list, each refused.
MISTAKEN = {"forbidden_here_and_there"}
# Not what is promised, or later than that: recall and false trips as docs/benchmarks.md has them.
SHORT_OF_IT = {
    "field_sealed": (0.98, 0),
    "crossed": (0.99, 0),
    "crossed_sealed": (0.99, 0),
    "daily": (0.93, 0),
    "daily_sealed": (0.92, 0),
    "judge": (0.94, 0),
    "real": (0.97, 0),
    "last": (1, 0),
    "final": (1, 0),
    "ninth": (1, 0),
    "tenth": (1, 0),
    "eleventh": (0.91, 0),
    "fourteenth": (1, 0),
    "fifteenth": (0.95, 0),
    "seventeenth": (1, 0),
}


@cache
def traces(name: str) -> tuple[Trace, ...]:
    """The traces of a set, read once: they know what was read in their calls."""
    return tuple(load(name))


@cache
def verdicts(name: str) -> tuple[Verdict, ...]:
    """What the detectors make of each of a set's traces, in their order."""
    return tuple(judge(trace) for trace in traces(name))


def test_the_traces_are_those_that_their_seeds_make() -> None:
    made = generator.sets()

    assert set(made) == set(SETS) - set(BY_OTHERS)
    for name, lines in made.items():
        assert (TRACES / f"{name}.jsonl").read_text(encoding="utf-8") == "".join(f"{line}\n" for line in lines), name


def test_there_are_enough_of_every_kind_and_about_half_of_them_are_work() -> None:
    every = [trace for name in SETS for trace in traces(name)]

    assert len(every) >= 300
    assert sum(trace.first is None for trace in every) >= 0.48 * len(every)
    assert {trace.kind for trace in every} == KINDS
    for trace in every:
        if trace.first is not None:
            assert trace.at is not None
            assert trace.first < trace.at < len(trace.calls)


def test_loops_that_were_made_go_on_for_longer_than_may_be_wasted() -> None:
    for name in SETS:
        for trace in traces(name):
            if name not in BY_OTHERS and trace.at is not None:
                assert trace.at < len(trace.calls) - MOST_WASTED


@pytest.mark.parametrize(
    "name",
    [
        "tuned",
        "held_out",
        "unseen",
        "probed",
        "reported",
        "sealed",
        "wide",
        "staged",
        "lists",
        "field",
        "twelfth",
        "thirteenth",
        "sixteenth",
    ],
)
def test_loops_are_found_in_time_and_work_is_left_alone(name: str) -> None:
    score = count(verdicts(name))

    assert score.recall >= LEAST_RECALL
    assert score.false_trip_rate <= MOST_FALSE_TRIPS
    assert max(score.wasted) <= MOST_WASTED


@pytest.mark.parametrize("name", SHORT_OF_IT)
def test_where_the_promise_is_not_kept_as_much_is_found_as_is_written_down(name: str) -> None:
    score = count(verdicts(name))
    least_recall, most_false = SHORT_OF_IT[name]

    assert score.recall >= least_recall
    assert score.false <= most_false


def test_of_the_transcripts_only_what_is_known_is_mistaken() -> None:
    designed = verdicts("designed")

    assert all(verdict.found for verdict in designed if verdict.trace.first is not None)
    assert [verdict.trace.family for verdict in designed if verdict.false] == list(MISTAKEN)
    assert all(verdict.wasted <= MOST_WASTED for verdict in designed)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_what_a_call_and_its_result_are_sent_in_does_not_matter(disguise: str) -> None:
    """The tuned traces are worth the same in an envelope, in colours, with remarks on the call."""
    score = count([judge(disguised(trace, disguise)) for trace in traces("tuned")])

    assert score.recall >= LEAST_RECALL
    assert score.false_trip_rate <= MOST_FALSE_TRIPS
    assert max(score.wasted) <= MOST_WASTED


def test_the_names_of_tools_and_arguments_do_not_matter() -> None:
    """But for names that say that a value is about the call, as `display` does of a call that was reported."""
    for name in ("tuned", "held_out", "unseen"):
        for verdict in verdicts(name):
            trace = verdict.trace
            if trace.kind != "ping_pong" and not any(call.is_wait or _hands_over(call) for call in trace.calls):
                assert _said(judge(_renamed(trace))) == _said(verdict), trace.name


def test_calls_of_other_agents_in_between_do_not_matter() -> None:
    for name in ("tuned", "held_out", "unseen"):
        for alone in verdicts(name):
            trace = alone.trace
            if len({call.step for call in trace.calls}) == 1:
                crowd, places = _crowded(trace)
                trips = (watch(crowd[: place + 1]) for place in places)
                index, trip = next(((i, trip) for i, trip in enumerate(trips) if trip is not None), (-1, None))
                assert (index, trip and trip.rule) == (alone.index, alone.trip and alone.trip.rule), trace.name


def _said(verdict: Verdict) -> tuple[str | None, int]:
    return verdict.trip.rule if verdict.trip else None, verdict.index


def _hands_over(call: Observed) -> bool:
    return call.tool == "hand_off"


def _renamed(trace: Trace) -> Trace:
    # Results may name the tool; they go on naming it.
    tools = {tool: f"quix{index}ol" for index, tool in enumerate(sorted({call.tool for call in trace.calls}))}

    def content(call: Observed) -> str:
        return re.sub(r"\w+", lambda found: tools.get(found[0], found[0]), call.fact.content)

    def arguments(call: Observed) -> dict[str, Any]:
        return {f"{key[::-1]}zz": value for key, value in call.fact.arguments.items()}

    return replace(
        trace,
        calls=tuple(
            replace(
                call,
                fact=call.fact.model_copy(
                    update={"tool": tools[call.tool], "content": content(call), "arguments": arguments(call)}
                ),
            )
            for call in trace.calls
        ),
    )


def _crowded(trace: Trace) -> tuple[list[Observed], list[int]]:
    """The trace with calls of other agents in between, and where its own calls are now."""
    rng = random.Random(trace.name)
    calls: list[Observed] = []
    places = []
    for call in trace.calls:
        for _ in range(rng.choice((0, 0, 1, 2))):
            failed = rng.random() < 0.5
            fact = ToolFinished(
                tool_use_id="other",
                tool=call.tool,
                arguments={"elsewhere": f"{rng.random()}"},
                outcome="error" if failed else "ok",
                content=call.fact.content if rng.random() < 0.3 else f"{rng.random()}",
            )
            calls.append(Observed(step=f"other {rng.randint(1, 3)}", seq=len(calls), fact=fact, role="other"))
        places.append(len(calls))
        calls.append(call)
    return calls, places
