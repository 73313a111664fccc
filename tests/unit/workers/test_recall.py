"""What a model is shown of recalled passages."""

from uuid import UUID

from chargehand.memory.semantic import Recalled
from chargehand.workers.tools.recall import MAX_CHARACTERS, show_passages


def recalled(number: int, text: str, line_start: int = 7) -> Recalled:
    return Recalled(
        memory_id=UUID(int=number),
        source=f"desk/f{number}.py",
        line_start=line_start,
        line_end=line_start + text.count("\n"),
        text=text,
        kind="passage",
        score=1.0,
        similarity=0.5,
        lexical_score=1.0,
    )


def test_passages_have_their_place_and_numbered_lines() -> None:
    shown = show_passages([recalled(1, "def f():\n    return 1"), recalled(2, "\ttab: kept")])
    assert shown.text == "desk/f1.py:7-8\n7: def f():\n8:     return 1\n\ndesk/f2.py:7-7\n7: \ttab: kept"
    assert shown.memory_ids == (UUID(int=1), UUID(int=2))


def test_nothing_found_says_so() -> None:
    assert show_passages([]).text == "Nothing was found."


def test_what_does_not_fit_is_named_and_not_counted_as_read() -> None:
    shown = show_passages([recalled(1, "x" * (MAX_CHARACTERS - 50)), recalled(2, "y" * 100), recalled(3, "z")])
    assert "Also found, not shown: desk/f2.py:7-7" in shown.text
    assert shown.memory_ids == (UUID(int=1), UUID(int=3))
