"""A repair that a person types is understood, or refused with the form that it should have."""

import pytest

from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.line_fixes import PlacedLine, Swap, corrected, named_file, parse_fix


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a/b.py:6: return x", PlacedLine(path="a/b.py", line=6, text=" return x")),
        ("./a.py:6:return x\n", PlacedLine(path="a.py", line=6, text="return x")),
        ("  a.py:6:     return {1: 2}  ", PlacedLine(path="a.py", line=6, text="     return {1: 2}")),
        ("a.py:1: def f() -> int:", PlacedLine(path="a.py", line=1, text=" def f() -> int:")),
        ("events[-n:-1] -> events[-n:]", Swap(old="events[-n:-1]", new="events[-n:]")),
        ("x \u2192 y", Swap(old="x", new="y")),
    ],
)
def test_a_repair_is_a_line_with_its_place_or_two_passages(typed: str, meant: object) -> None:
    assert parse_fix(typed) == meant


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("fix the slice", "no repair that can be applied"),
        ("a.py:6:", "no line behind its place"),
        ("a.py:0: x", "no repair"),
        ("a -> b -> c", "no repair"),
        ("a -> a", "changes nothing"),
        ("a -> ", "no repair"),
        ("a.py:6: x\ny", "several lines"),
        ("x" * 3_000, "3,000 characters"),
    ],
)
def test_what_is_no_repair_is_refused_with_the_form(typed: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        parse_fix(typed)
    assert "FILE:LINE: the corrected line" in str(refused.value) or "->" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [(" return y", "    return y"), ("return y", "    return y"), ("        return y", "       return y")],
)
def test_a_line_keeps_the_indentation_of_the_one_it_replaces_unless_more_is_typed(text: str, line: str) -> None:
    assert corrected(PlacedLine(path="a", line=1, text=text), "    return x") == line


def test_only_a_placed_line_names_a_file() -> None:
    assert named_file("a.py:6: return x") == "a.py"
    assert named_file("x -> y") is None
    assert named_file("whatever") is None
