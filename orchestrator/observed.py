"""One result of a tool, where the journal has it, and what is compared of it; pure."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from chargehand.orchestrator.columns import Columns, columns
from chargehand.orchestrator.facts import ToolFinished
from chargehand.orchestrator.likeness import (
    MOST_OF_AN_END,
    Settled,
    abridged,
    leaves,
    normalise,
    settle,
    settle_failure,
    spelling,
    without_identity,
)
from chargehand.orchestrator.tones import (
    Tone,
    is_at_work,
    is_refusal,
    is_search,
    is_transient,
    lets_time_pass,
    looks_up,
    says_there_is_none,
    tone,
)
from chargehand.orchestrator.volatile import (
    ESSENCE_WORDS,
    NAME,
    essence,
    has_ratings,
    names_in,
    shares,
    without_ago,
    without_clocks,
    without_numbers,
    without_opaque,
    without_ratings,
    without_temporary,
    words,
)
from chargehand.orchestrator.wrappings import unwrap, without_prompt, without_remarks, without_thoughts

# What is left of an acknowledgement without its names.
LEAST_OF_AN_ACKNOWLEDGEMENT = 1
# What an answer says beside a name that is new each time; one word is what the name is called.
LEAST_BESIDE_A_NAME = 2
# Enough words to see that two answers are not alike, and of what length.
LOOKED_AT_WORDS = 24
LONG_LETTERS = 6
_HAS_BEEN = re.compile(r"\b(?:has|have|been) \w+ed\b", re.IGNORECASE)
_NUMBER_ALONE = re.compile(r"(?<![\w.#/-])\d+(?:\.\d+)?(?![\w/-])(?!\.\d)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


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
    def said(self) -> str:
        """The text of the result."""
        return without_prompt(self._unwrapped[0], self.fact.arguments.values())

    @cached_property
    def _unwrapped(self) -> tuple[str, bool]:
        return unwrap(abridged(self.fact.content))

    @property
    def _is_long(self) -> bool:
        return len(self.fact.content) > 2 * MOST_OF_AN_END

    @cached_property
    def arguments(self) -> dict[str, JsonValue]:
        """What was asked, but for what stands in the middle of long texts."""
        return {key: _abridged(value) for key, value in self.fact.arguments.items()}

    @cached_property
    def _arguments(self) -> JsonValue:
        return normalise(without_remarks(self.arguments))

    @cached_property
    def values(self) -> tuple[JsonValue, ...]:
        """The values of its arguments."""
        return tuple(leaves(self._arguments))

    @cached_property
    def named_values(self) -> dict[str, JsonValue]:
        """The same by where they stand; an empty one is as good as none."""
        return dict(_named("", self._arguments))

    @cached_property
    def asked(self) -> str:
        """The call, in words that are the same for the same call."""
        names = json.dumps(_shape(self._arguments))
        return "\n".join((self.tool, names, *(spelling(without_temporary(value)) for value in self.values)))

    @cached_property
    def asked_form(self) -> str:
        """The same without identifiers in hexadecimal."""
        return without_opaque(self.asked)

    @cached_property
    def gave(self) -> str:
        """The result, in words that are the same for the same result."""
        if self.tone == "failure":
            return f"{self.fact.error_type}: {spelling(self._failure.said)}"
        said = settle(self.said)
        # When something has been done is no part of what was.
        said = without_clocks(said) if self.tone == "success" and _HAS_BEEN.search(said) else said
        return without_identity(said) if self.tone == "success" else said

    @cached_property
    def _essence(self) -> tuple[str, frozenset[str], tuple[float, ...]]:
        least = LEAST_OF_AN_ACKNOWLEDGEMENT if self.tone == "success" else ESSENCE_WORDS
        said = essence(self.gave, least)
        # A name may be what was asked for; how long it took is not.
        return said if said[0] or said[1] else essence(self.gave, LEAST_BESIDE_A_NAME)

    @property
    def essence(self) -> str:
        """The result without names that a machine made and spans of time; empty where little would be left."""
        return self._essence[0]

    @cached_property
    def bare(self) -> str:
        """The same, if two words are left, or nothing was there but one name."""
        return essence(self.gave, LEAST_BESIDE_A_NAME)[0] or (NAME if len(self.gave_words) == 1 else "")

    @cached_property
    def hits(self) -> str:
        """The result without how well each hit fits the question, if there are such ratings and words beside them."""
        # To take names out of a text is dear.
        return without_ratings(self.essence) if has_ratings(self.said) else ""

    @property
    def names(self) -> frozenset[str]:
        """The names that a machine made, in the result."""
        return self._essence[1]

    @property
    def spans(self) -> tuple[float, ...]:
        """The spans of time in the result."""
        return self._essence[2]

    @cached_property
    def shares(self) -> tuple[str, ...]:
        """What it says of how far it is: percentages, and so many of so many."""
        return shares(self.said)

    @property
    def ago(self) -> tuple[float, ...]:
        """How long ago things were, in seconds, where it says so."""
        return self._ago[1]

    @property
    def but_for_ago(self) -> str:
        """The result without that."""
        return self._ago[0]

    @cached_property
    def _ago(self) -> tuple[str, tuple[float, ...]]:
        return without_ago(self.gave)

    @cached_property
    def without_clocks(self) -> str:
        """The result without clocks."""
        return without_clocks(self.gave)

    @cached_property
    def form(self) -> str:
        """The result without names, clocks and numbers; empty where too little is left."""
        return without_numbers(self.essence)

    @cached_property
    def columns(self) -> Columns:
        """The result taken apart at its numbers; a failure's are its `figures`."""
        return columns(self.gave)

    @cached_property
    def asked_for(self) -> frozenset[str]:
        """The values of its arguments, and the names in them that a machine made."""
        texts = [str(value) for value in self.values]
        return frozenset(text.casefold() for text in texts).union(*map(names_in, texts))

    @cached_property
    def figures(self) -> tuple[float, ...]:
        """The numbers in a failure."""
        return self._failure.figures if self.tone == "failure" else ()

    @cached_property
    def positions(self) -> tuple[float, ...]:
        """The numbers of lines in a failure."""
        return self._failure.positions if self.tone == "failure" else ()

    @cached_property
    def numbers(self) -> tuple[float, ...]:
        """The numbers in the result."""
        return tuple(float(found) for found in _NUMBER.findall(self.said))

    @cached_property
    def tone(self) -> Tone:
        """What it says on the whole."""
        if self.refused:
            return "failure"
        # Who makes something may be told nothing, and who looks for something has found nothing.
        found = tone(self.said) if self.said.strip() or not self._searches else "nothing"
        # What has failed on the way of a job that goes on is counted with what has not.
        is_counted = found == "failure" and self.said.startswith("{") and bool(self.shares) and is_at_work(self.said)
        return "plain" if is_counted else found

    @cached_property
    def _searches(self) -> bool:
        return any(is_search(f"{self.tool}\n{value}") for value in self.values)

    @cached_property
    def looks_up(self) -> bool:
        """Whether it searches, and does not only list what there is."""
        return any(looks_up(f"{self.tool}\n{value}") for value in self.values)

    @cached_property
    def refused(self) -> bool:
        """Whether it gave an error, whatever its tool calls that."""
        return self.failed or self._unwrapped[1] or is_refusal(self.said)

    @cached_property
    def is_transient(self) -> bool:
        """Whether it failed in a way that asks to come again."""
        if self.tone != "failure":
            return False
        # Who waits in vain for what is not there has waited, whatever the error is called.
        return is_transient(self.said) or (is_transient(self.fact.error_type) and not says_there_is_none(self.said))

    @cached_property
    def is_wait(self) -> bool:
        """Whether it did nothing but let time pass."""
        if self.failed:
            return False
        return lets_time_pass(self.tool, " ".join(map(str, self.values)), self.said)

    @cached_property
    def waits_for(self) -> float:
        """The number in a wait's arguments; 1 if there is none."""
        numbers = [float(found) for value in self.values for found in _NUMBER.findall(str(value))]
        return max(numbers, default=0.0) or 1.0

    @cached_property
    def asked_words(self) -> frozenset[str]:
        """The words that a message may echo."""
        return frozenset(words(self.tool)).union(*(words(str(value)) for value in self.values))

    @cached_property
    def message_words(self) -> frozenset[str]:
        """The words of the call without identifiers, and with its reason, which may be all that it says."""
        texts = (without_opaque(str(value)) for value in leaves(normalise(without_thoughts(self.arguments))))
        return frozenset(words(self.tool)).union(*map(words, texts))

    @cached_property
    def told(self) -> float | None:
        """The one number among its arguments that is no more than a number."""
        numbers = [value for value in self.values if isinstance(value, int | float) and not isinstance(value, bool)]
        if not numbers:
            # Or in what it says.
            numbers = [found for value in self.values for found in _NUMBER_ALONE.findall(str(value))]
        return float(numbers[0]) if len(numbers) == 1 else None

    @cached_property
    def gave_words(self) -> tuple[str, ...]:
        """The words of the result."""
        return tuple(words(self.gave))

    @cached_property
    def different_words(self) -> frozenset[str]:
        """The same, each once."""
        return frozenset(self.gave_words)

    @cached_property
    def long_words(self) -> tuple[str, ...]:
        """The first of its long words that have no digits."""
        return tuple(word for word in self.gave_words[:LOOKED_AT_WORDS] if word.isalpha() and len(word) >= LONG_LETTERS)

    @cached_property
    def _failure(self) -> Settled:
        # A number in the middle of a long failure, the way to it, tells nothing.
        return settle_failure(unwrap(abridged(self.fact.content, by_numbers=False))[0] if self._is_long else self.said)


def _abridged(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {key: _abridged(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_abridged(inner) for inner in value]
    return abridged(value) if isinstance(value, str) else value


def _named(name: str, value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """The values in arguments by their names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _named(f"{name}.{key}", inner)
    elif isinstance(value, list) and value and not any(isinstance(item, dict | list) for item in value):
        # A command in parts is a command, and the order of names in a list is none.
        yield name, value[0] if len(value) == 1 else " ".join(str(item) for item in value)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _named(f"{name}.{index}", inner)
    elif value not in (None, ""):
        yield name, value


def _shape(value: JsonValue) -> JsonValue:
    """The names of arguments without their values."""
    if isinstance(value, dict):
        return {key.strip(): _shape(value[key]) for key in sorted(value)}
    return [_shape(item) for item in value] if isinstance(value, list) else None
