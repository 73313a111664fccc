"""Finds agents that repeat themselves: a pure function of what tools were asked and what they gave, across a run.

A call is compared by its tool and its *normalised* arguments (key order, white space and the spelling of numbers do not
count), and always together with what it gave: polling whose answer changes is no loop. Not covered: spend above plan,
which the budget watches, and loops that change something in every round.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from chargehand.orchestrator.facts import ToolFinished

# The third same answer to the same question is no accident; the second may be a retry after a hint.
SAME_ERROR_LIMIT = 3
# Variations of a word are a fair search, so these get more room than plain repetition.
NEAR_IDENTICAL_LIMIT = 5
# Calls of one turn were made before any of their answers was seen.
NEAR_IDENTICAL_TURNS = 3
NEAR_IDENTICAL_RATIO = 0.9
# A-B-A-B: two rounds of two calls, each with the answer it had before.
ALTERNATION_ROUNDS = 2
# So many calls in a row that gave nothing the step had not seen.
NO_CHANGE_LIMIT = 6
# A gives to B, B to A, A to B, B to A.
PING_PONG_LIMIT = 4
HAND_OFF_TOOLS = frozenset({"hand_off"})
# Comparing long texts letter by letter is quadratic, and their beginning tells enough.
COMPARED_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One result of a tool and where the journal has it.

    An agent looks at all of its results after every turn: keep them, what is compared of one is made once.
    """

    step: str
    """The step's id as text."""
    seq: int
    fact: ToolFinished
    role: str = ""
    """Who called; only hand-offs need it."""
    turn: int | None = None
    """The turn of the call; None: a turn of its own."""

    @property
    def place(self) -> str:
        """`step:seq`, as evidence names it."""
        return f"{self.step}:{self.seq}"

    @property
    def tool(self) -> str:
        """Its name."""
        return self.fact.tool

    @property
    def failed(self) -> bool:
        """Whether it gave an error."""
        return self.fact.outcome == "error"

    @cached_property
    def asked(self) -> str:
        """The call, in words that are the same for the same call."""
        return f"{self.tool} {json.dumps(normalise(self.fact.arguments), sort_keys=True, ensure_ascii=False)}"

    @cached_property
    def gave(self) -> str:
        """The result, in words that are the same for the same result."""
        fact = self.fact
        return f"{fact.outcome} {fact.error_type} {fact.commit or ''} {' '.join(fact.content.split())}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trip:
    """A loop that was found; a person decides how it goes on."""

    rule: str
    """`same_error`, `alternation`, `near_identical`, `no_change` or `ping_pong`."""
    detail: str
    """One sentence for the person."""
    evidence: tuple[str, ...]
    """`step:seq` of the rows that show it."""


def watch(observed: Sequence[Observed]) -> Trip | None:
    """The first rule that the run's tool results, in order, break; None while it gets on.

    The last observation is the newest, and its step is the one that is judged: results of other steps count for what
    concerns the whole run (the same error, hand-offs), and never by themselves.
    """
    if not observed:
        return None
    own = [call for call in observed if call.step == observed[-1].step]
    return _same_error(observed) or _ping_pong(observed) or _alternation(own) or _near_identical(own) or _no_change(own)


def normalise(arguments: JsonValue) -> JsonValue:
    """Arguments without what does not change their meaning: key order, white space, the spelling of numbers."""
    if isinstance(arguments, dict):
        return {key.strip(): normalise(arguments[key]) for key in sorted(arguments)}
    if isinstance(arguments, list):
        return [normalise(item) for item in arguments]
    if isinstance(arguments, bool) or arguments is None:
        return arguments
    if isinstance(arguments, int | float):
        return _number(arguments)
    text = " ".join(arguments.split())
    # Only plain decimal numbers: "1e5" or "0x10" may be names, and leading zeros mean something in an id.
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?", text):
        return _number(float(text))
    return text


def _number(value: float) -> JsonValue:
    return int(value) if isinstance(value, int) or value.is_integer() else value


def _same_error(calls: Sequence[Observed]) -> Trip | None:
    newest = calls[-1]
    if not newest.failed:
        return None
    same: list[Observed] = []
    for call in reversed(calls):
        if call.asked != newest.asked:
            continue
        if call.gave != newest.gave:
            break  # the world answered differently in between: that is progress
        same.append(call)
    if len(same) < SAME_ERROR_LIMIT:
        return None
    kind = newest.fact.error_type or "error"
    return _trip("same_error", f"{newest.tool} failed {len(same)} times with the same arguments and {kind}.", same)


def _alternation(own: Sequence[Observed]) -> Trip | None:
    length = 2 * ALTERNATION_ROUNDS
    if len(own) < length:
        return None
    rounds = own[-length:]
    first, second = rounds[0], rounds[1]
    if first.asked == second.asked:
        return None
    repeats = all(
        call.asked == (first, second)[index % 2].asked and call.gave == (first, second)[index % 2].gave
        for index, call in enumerate(rounds)
    )
    if not repeats:
        return None
    detail = f"{first.tool} and {second.tool} take turns, {ALTERNATION_ROUNDS} rounds with the same answers."
    return _trip("alternation", detail, rounds)


def _near_identical(own: Sequence[Observed]) -> Trip | None:
    newest = own[-1]
    near: list[Observed] = []
    for call in reversed(own):
        if call.tool != newest.tool or not _is_near(call, newest):
            break
        near.append(call)
    turns = {("seq", call.seq) if call.turn is None else ("turn", call.turn) for call in near}
    if len(near) < NEAR_IDENTICAL_LIMIT or len(turns) < NEAR_IDENTICAL_TURNS:
        return None
    detail = f"{newest.tool} was called {len(near)} times in a row with nearly the same arguments and the same outcome."
    return _trip("near_identical", detail, near)


def _is_near(call: Observed, newest: Observed) -> bool:
    if call is newest:
        return True
    if call.failed != newest.failed:
        return False
    # An error message repeats the arguments, so errors only have to resemble each other; answers have to be the same.
    same_outcome = (
        call.fact.error_type == newest.fact.error_type and _alike(call.gave, newest.gave)
        if newest.failed
        else call.gave == newest.gave
    )
    return same_outcome and _alike(_values(call), _values(newest))


def _values(call: Observed) -> str:
    return " ".join(_leaves(normalise(call.fact.arguments)))


def _leaves(value: JsonValue) -> Iterable[str]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from _leaves(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield str(value)


def _alike(one: str, other: str) -> bool:
    one, other = one[:COMPARED_CHARACTERS], other[:COMPARED_CHARACTERS]
    if one == other:
        return True
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return matcher.quick_ratio() >= NEAR_IDENTICAL_RATIO and matcher.ratio() >= NEAR_IDENTICAL_RATIO


def _no_change(own: Sequence[Observed]) -> Trip | None:
    if len(own) <= NO_CHANGE_LIMIT:
        return None
    window = own[-NO_CHANGE_LIMIT:]
    seen = {(call.asked, call.gave) for call in own[:-NO_CHANGE_LIMIT]}
    if not all((call.asked, call.gave) in seen for call in window):
        return None
    return _trip("no_change", f"The last {NO_CHANGE_LIMIT} calls gave nothing that the step had not seen.", window)


def _ping_pong(calls: Sequence[Observed]) -> Trip | None:
    hand_offs = [call for call in calls if call.tool in HAND_OFF_TOOLS and not call.failed]
    if not hand_offs or hand_offs[-1] is not calls[-1] or len(hand_offs) < PING_PONG_LIMIT:
        return None
    recent = hand_offs[-PING_PONG_LIMIT:]
    ways = [(call.role, str(call.fact.arguments.get("to", ""))) for call in recent]
    one, other = ways[0]
    if not one or not other or one == other:
        return None
    if Counter(ways) != Counter({(one, other): PING_PONG_LIMIT // 2, (other, one): PING_PONG_LIMIT // 2}):
        return None
    return _trip("ping_pong", f"{one} and {other} hand the same work to each other.", recent)


def _trip(rule: str, detail: str, calls: Iterable[Observed]) -> Trip:
    places = sorted({(call.step, call.seq, call.place) for call in calls})
    return Trip(rule=rule, detail=detail, evidence=tuple(place for _, _, place in places))
