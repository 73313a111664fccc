"""Which words of a passage are marked for the eye."""

from chargehand.orchestrator.highlights import best_lines, highlights


def marked(text: str, query: str) -> list[str]:
    return [text[begin:end] for begin, end in highlights(text, query)]


def test_words_are_marked_in_other_forms_and_inside_names() -> None:
    assert marked("def renderLabel(parcels): rendering", "Where is the label of a parcel rendered?") == [
        "render",
        "Label",
        "parcels",
        "rendering",
    ]


def test_common_words_are_not_marked() -> None:
    assert marked("the label of the parcel", "What is the price?") == []


def test_a_short_word_is_not_taken_apart() -> None:
    assert marked("uses a bus", "us") == []


def test_the_lines_with_most_marks_are_shown_and_the_earliest_of_them() -> None:
    lines = [str(number) for number in range(20)]
    assert best_lines(lines, [12, 13], most=3) == range(11, 14)
    assert best_lines(lines, [], most=3) == range(3)
    assert best_lines(lines[:2], [1], most=3) == range(2)
