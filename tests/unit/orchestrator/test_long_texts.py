"""The detectors read results and arguments of any length and form in a time that no lease notices."""

import json
import time

import pytest

from chargehand.orchestrator.breaker import Observed, watch
from chargehand.orchestrator.facts import ToolFinished
from chargehand.orchestrator.likeness import MOST_OF_AN_END, abridged, normalise

# As much as a tool may give at most.
LONG = 96_000
# Of the processor, for four looks; expressions that go back over such a text take minutes.
MOST_SECONDS = 2.0
PIECES = (
    "a",
    " ",
    "1",
    "\n",
    "1\n",
    "a.",
    "1:",
    "/tmp/",
    "[{",
    '{"a":1},',
    "3.14 ",
    "1 of 2 ",
    "\\n",
    "<a>",
    "_",
    "no ",
)


def looked_at(*, content: str = "the same", argument: str = "q", failed: bool = False) -> float:
    """Seconds of the processor for the looks after four calls."""
    calls: list[Observed] = []
    began = time.thread_time()
    for index in range(4):
        fact = ToolFinished(
            tool_use_id=f"t{index}",
            tool="bash",
            arguments={"x": argument, "n": index},
            outcome="error" if failed else "ok",
            content=content,
            error_type="ToolError" if failed else "",
        )
        calls.append(Observed(step="a", seq=index, fact=fact, role="coder", turn=index))
        watch(calls)
    return time.thread_time() - began


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_text_of_one_piece_is_read_in_no_time(piece: str) -> None:
    text = piece * (LONG // len(piece))

    assert looked_at(content=text) < MOST_SECONDS
    assert looked_at(content=text, failed=True) < MOST_SECONDS
    assert looked_at(argument=text) < MOST_SECONDS


@pytest.mark.parametrize("levels", [40, 200, 900, 3_000])
def test_what_is_nested_deeply_is_a_text_like_any(levels: int) -> None:
    nested = "[" * levels + "1" + "]" * levels

    looked_at(content=nested)
    looked_at(content=f'{{"a": {nested}}}')
    looked_at(argument=nested)
    looked_at(content="[" * levels)


def test_arguments_within_texts_within_texts_end_somewhere() -> None:
    value = "[1]"
    for _ in range(9):
        value = json.dumps(["[" * 40 + "1" + "]" * 40, value])

    assert isinstance(normalise({"x": value}), dict)
    looked_at(argument=value)


def in_the_middle(*lines: str) -> str:
    around = "\n".join(f"tests/test_{index}.py passes" for index in range(400))
    assert len(around) > MOST_OF_AN_END
    return "\n".join((around, *lines, around))


def test_a_line_in_the_middle_of_a_long_result_is_a_difference_and_its_place_is_none() -> None:
    lines = [f"row {word}" for word in ("ash", "birch", "cedar")]

    assert abridged(in_the_middle(*lines)) != abridged(in_the_middle(*lines[:2], "row damson"))
    assert abridged(in_the_middle(*lines)) == abridged(in_the_middle(*reversed(lines)))
    assert abridged(in_the_middle("taken at 10:11:12")) == abridged(in_the_middle("taken at 10:11:59"))


def test_a_number_in_the_middle_tells_two_long_results_apart_and_no_two_long_failures() -> None:
    one, other = in_the_middle("17 rows left"), in_the_middle("16 rows left")

    assert abridged(one) != abridged(other)
    assert abridged(one, by_numbers=False) == abridged(other, by_numbers=False)


def test_a_text_that_is_not_long_is_left_alone() -> None:
    text = "x " * MOST_OF_AN_END

    assert abridged(text) == text


def test_a_long_file_that_is_written_again_and_again_is_a_loop_and_one_that_changes_is_none() -> None:
    def trip(texts: list[str]) -> bool:
        calls: list[Observed] = []
        for index, text in enumerate(texts):
            fact = ToolFinished(
                tool_use_id=f"t{index}",
                tool="write_file",
                arguments={"path": "a.py", "content": text},
                outcome="error",
                content=f"{text}\nSyntaxError: invalid syntax",
                error_type="ToolError",
            )
            calls.append(Observed(step="a", seq=index, fact=fact, role="coder", turn=index))
        return watch(calls) is not None

    assert trip([in_the_middle("x = (")] * 3)
    assert not trip([in_the_middle(line) for line in ("x = (", "y = [", "z = {")])
