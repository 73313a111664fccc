"""Numbers in the answers to one question, each by the word it stands behind, and which of them are noise; pure."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chargehand.orchestrator.volatile import NAME, without_names

# A number that jumps about by so much of itself, and is so large or so exact, names something or is chance.
WILD_SHARE = 0.15
LEAST_WILD = 1_000
EXACT_PLACES = 4
# Two steps may go both ways; one cannot.
LEAST_STEPS = 2
# Of all its way one way, so much goes back; of a longer way it takes more.
LEAST_BACK = 0.01
LONGER_STEPS = 4
LEAST_BACK_OF_LONGER = 0.05

_NUMBER = re.compile(
    r"(?<![\w.])(?P<number>\d+(?:\.\d+)?)(?P<unit>\s?(?:ns|us|µs|ms|s|secs?|seconds)\b)?(?!\w)"
    r"(?P<share> ?(?:%|/|of\b))?"
)
_WORD_BEFORE = re.compile(r"([^\W\d]+)[^\w]*$")
BEFORE_CHARACTERS = 24

Key = tuple[str, int]


class Columns(NamedTuple):
    """An answer taken apart."""

    texts: tuple[str, ...]
    """What stands before, between and behind the numbers; names that a machine made are set aside."""
    keys: tuple[Key, ...]
    """Of each number, the word before it, and how often that came before."""
    numbers: tuple[float, ...]
    spelled: tuple[str, ...]
    is_span: tuple[bool, ...]
    """Whether it is a span of time."""

    def without(self, noise: frozenset[Key]) -> str:
        """The answer without the numbers that are noise."""
        said = [self.texts[0]]
        for key, spelled, text in zip(self.keys, self.spelled, self.texts[1:], strict=True):
            said += [NAME if key in noise else spelled, text]
        return "".join(said)


def columns(said: str) -> Columns:
    """An answer's numbers, but for parts of a whole, which tell how far something is."""
    left = without_names(said)
    texts, keys, numbers, spelled, spans = [], [], [], [], []
    seen: dict[str, int] = {}
    end = 0
    for found in _NUMBER.finditer(left):
        if found["share"]:
            continue
        before = _WORD_BEFORE.search(left[max(0, found.start() - BEFORE_CHARACTERS) : found.start()])
        word = before[1] if before else ""
        seen[word] = seen.get(word, 0) + 1
        texts.append(left[end : found.start()])
        keys.append((word, seen[word]))
        numbers.append(float(found["number"]))
        spelled.append(f"{found['number']}{found['unit'] or ''}")
        spans.append(found["unit"] is not None)
        end = found.end()
    return Columns((*texts, left[end:]), tuple(keys), tuple(numbers), tuple(spelled), tuple(spans))


def noise(answers: Iterable[Sequence[Columns]]) -> frozenset[Key]:
    """Which numbers are noise: they go up and down from each answer to the next, to whatever question.

    One sequence for each question that was asked of one tool. A gauge moves by steps; what is being done goes one way.
    """
    steps: dict[Key, list[float]] = {}
    largest: dict[Key, float] = {}
    gauges: set[Key] = set()
    exact: set[Key] = set()
    for those in answers:
        last: dict[Key, float] = {}
        for each in those:
            for key, number, spelled, is_span in zip(each.keys, each.numbers, each.spelled, each.is_span, strict=True):
                if key in last:
                    steps.setdefault(key, []).append(number - last[key])
                last[key] = number
                largest[key] = max(largest.get(key, 0.0), number)
                if not is_span and 0 < len(spelled.partition(".")[2]) < EXACT_PLACES:
                    gauges.add(key)
                elif is_span or "." in spelled:
                    exact.add(key)
    return frozenset(
        key
        for key, moved in steps.items()
        if key not in gauges and (key in exact or largest[key] >= LEAST_WILD) and _jumps(moved, largest[key])
    )


def _jumps(moved: Sequence[float], largest: float) -> bool:
    if len(moved) < LEAST_STEPS or 0 in moved:
        return False
    up, down = sum(step for step in moved if step > 0), -sum(step for step in moved if step < 0)
    # What goes one way, and once a little back, is a measurement.
    least = LEAST_BACK if len(moved) < LONGER_STEPS else LEAST_BACK_OF_LONGER
    return min(up, down) >= least * max(up, down) and sum(map(abs, moved)) >= WILD_SHARE * largest * len(moved)
