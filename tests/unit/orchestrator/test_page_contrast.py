"""The colours of the pages can be told apart: WCAG 2.2 AA, for every pair that the style sheet puts together.

4.5 to 1 for words (1.4.3); 3 to 1 for what has to be seen to use a page (1.4.11): borders, shapes, bars, focus.
"""

import re
from pathlib import Path

import pytest

SHEET = (Path(__file__).parents[3] / "orchestrator" / "pages" / "static" / "page.css").read_text()
WORDS, SHAPES = 4.5, 3.0
STATES = ("running", "waiting", "succeeded", "failed", "cancelled")
# What stands on what: on a page, a card or the head of a table; on a shape of the graph.
GROUNDS, BOXES = ("ground", "raised"), ("box", "body")
ON = {
    **dict.fromkeys(("text", "dim"), (*GROUNDS, *BOXES)),
    **dict.fromkeys(STATES, (*GROUNDS, *BOXES)),
    **dict.fromkeys(("link", "danger"), GROUNDS),
    "on-main": ("main",),
}
TEXT_ON = ("added", "removed", "mark")
# Borders of fields and buttons, edges and shapes of the graph, bars, the line below the page one is on.
SEEN_ON = {
    "edge": (*GROUNDS, *BOXES),
    **dict.fromkeys(STATES, (*GROUNDS, *BOXES)),
    **dict.fromkeys(("main", "danger"), GROUNDS),
}
# Lines between rows and around boxes, which nobody needs to see; the bar of this colour has a border that is seen.
DECORATION = {"line"}


def colours(scheme: str) -> dict[str, tuple[float, float, float]]:
    light, dark = re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6});", light))
    if scheme == "dark":
        found |= dict(re.findall(r"--([\w-]+): #([0-9a-f]{6});", dark))
    return {name: tuple(int(value[at : at + 2], 16) / 255 for at in (0, 2, 4)) for name, value in found.items()}


def luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_and_shapes_be_seen_on_whatever_they_stand(scheme):
    known = colours(scheme)
    words = [(fore, back) for fore, backs in ON.items() for back in backs] + [("text", back) for back in TEXT_ON]
    shapes = [(fore, back) for fore, backs in SEEN_ON.items() for back in backs]
    pale = {
        f"{fore} on {back}": round(ratio, 2)
        for pairs, least in ((words, WORDS), (shapes, SHAPES))
        for fore, back in pairs
        if (ratio := contrast(known[fore], known[back])) < least
    }
    assert pale == {}


def test_every_colour_of_the_sheet_is_one_of_those():
    rules = SHEET[SHEET.index("* { box-sizing") :]
    known = colours("light").keys()
    named = dict.fromkeys(("color", "fill", "stroke", "background", "border"), frozenset[str]())
    for kind, value in re.findall(r"(?<![\w-])(color|fill|stroke|background|border[\w-]*|outline): ([^;}]+)", rules):
        used = re.findall(r"var\(--([\w-]+)\)", value)
        # A colour that is written out would pass by unseen.
        assert not re.search(r"#[0-9a-f]{3}|rgb|hsl|color-mix|currentcolor", value), value
        kind = "border" if kind.startswith(("border", "outline")) else kind
        named[kind] = named[kind] | ({*used} & known)
    assert named["color"] == ON.keys() | {"text"}
    assert named["fill"] | named["stroke"] <= ON.keys() | SEEN_ON.keys() | {*GROUNDS, *BOXES, *DECORATION}
    assert named["background"] <= {*GROUNDS, *TEXT_ON, *SEEN_ON, *DECORATION}
    assert named["border"] <= SEEN_ON.keys() | DECORATION
    # What is half seen has less contrast than its colour.
    assert set(re.findall(r"opacity: ([^;}]+)", rules)) <= {"1"}


def test_the_scale_is_that_of_the_guideline():
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    # The palest grey that is said to be enough for words on white, and the next one that is not.
    assert contrast((0x76 / 255,) * 3, (1, 1, 1)) >= WORDS > contrast((0x77 / 255,) * 3, (1, 1, 1))
