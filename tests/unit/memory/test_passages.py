"""Cutting files into passages."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.memory.passages import MAX_LINES, cut

PYTHON = (
    '''"""Labels."""

import io

SIZE = 3


# Drawn at the counter.
@cached
def render_label(parcel):
    """SVG of the label."""
'''
    + "    draw(parcel)\n" * 14
    + '''

class Desk:
    """The desk."""

    def accept(self, parcel):
'''
    + "        self.weigh(parcel)\n" * 14
)


def starts(path: str, text: str) -> list[str]:
    return [passage.text.split("\n")[0] for passage in cut(path, text.split("\n"))]


def test_functions_begin_passages_with_their_comments_and_decorators() -> None:
    assert starts("labels.py", PYTHON) == ['"""Labels."""', "# Drawn at the counter.", "class Desk:"]


def test_small_neighbours_are_one_passage() -> None:
    text = "\n".join(f"def f{number}():\n    return {number}\n" for number in range(5))
    assert len(cut("a.py", text.split("\n"))) == 1


def test_headings_begin_passages_of_prose_but_comments_in_fences_do_not() -> None:
    filler = "\n".join(["words"] * 16)
    text = f"# Title\n{filler}\n```sh\n# not a heading\n```\n{filler}\nRates\n-----\n{filler}\n"
    assert starts("README.md", text) == ["# Title", "Rates"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a.js", "export default async function render(parcel) {"),
        ("a.go", "func (d *Desk) Accept(p Parcel) error {"),
        ("a.rs", "pub(crate) fn accept(p: Parcel) -> bool {"),
        ("A.java", "    public static void accept(Parcel p) {"),
        ("a.c", "static int accept(struct parcel *p)"),
        ("a.sql", "CREATE TABLE parcels ("),
        ("a.ini", "[desk]"),
    ],
)
def test_definitions_of_other_languages_begin_passages(path: str, line: str) -> None:
    filler = ["    x = 1;"] * 20
    assert starts(path, "\n".join([*filler, line, *filler])) == ["    x = 1;", line]


def test_a_long_function_is_cut_at_a_blank_line() -> None:
    lines = ["def f():", *["    a()"] * 28, "", *["    b()"] * 60]
    passages = cut("a.py", lines)
    assert passages[0].line_end == 29
    assert passages[1].line_start == 31
    assert all(passage.line_end - passage.line_start < MAX_LINES for passage in passages)


def test_blank_files_have_no_passages() -> None:
    assert cut("a.py", ["", "   ", ""]) == []
    assert cut("a.py", []) == []


def test_a_hostile_line_costs_no_time() -> None:
    started = time.process_time()
    cut("a.c", ["a " * 50_000 + "(" * 50_000, "public " * 20_000] * 20)
    assert time.process_time() - started < 1.0


@given(
    path=st.sampled_from(["a.py", "b.md", "c.js"]),
    lines=st.lists(st.sampled_from(["", "  ", "def f():", "# x", "    y()", "---", "@d", "class A:"]), max_size=200),
)
def test_every_line_that_is_not_blank_is_in_exactly_one_passage(path: str, lines: list[str]) -> None:
    covered: list[int] = []
    for passage in cut(path, lines):
        assert passage.text == "\n".join(lines[passage.line_start - 1 : passage.line_end])
        assert passage.line_end - passage.line_start < MAX_LINES
        covered.extend(range(passage.line_start, passage.line_end + 1))
    assert covered == sorted(set(covered))
    assert {number for number, line in enumerate(lines, start=1) if line.strip()} <= set(covered)
