"""Figures of plans and runs, and how they become text, Mermaid and SVG, whatever their texts contain."""

import random
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.drawing.figure import MOST_CHILDREN, Figure, figure_of_plan, figure_of_run
from chargehand.orchestrator.drawing.layers import BOX_GAP, Box, Layout, lay_out
from chargehand.orchestrator.drawing.mermaid import draw_mermaid
from chargehand.orchestrator.drawing.outline import draw_text
from chargehand.orchestrator.drawing.svg import GRID_FROM, draw_svg
from chargehand.orchestrator.plan import ITEM, RESULT_OF, Branch, Map, Merge, Plan, Repeat, Step

SVG = "{http://www.w3.org/2000/svg}"
STATUSES = (
    "pending", "chained", "ready", "queued", "running", "waiting", "succeeded", "failed", "cancelled", "skipped",
    "superseded",
)  # fmt: skip


def script(key: str, *after: str, **fields: Any) -> Step:
    return Step(key=key, kind="script", script=fields.pop("name", "work"), after=after, **fields)


EVERY_KIND = Plan.of(
    [
        script("list"),
        Step(
            key="each",
            kind="map",
            after=("list",),
            map=Map(
                items={RESULT_OF: "list"},
                body=(script("do", arguments={"file": {ITEM: None}}), script("check", "do")),
                max_parallel=3,
                tolerated_failures=1,
            ),
        ),
        Step(key="again", kind="repeat", after=("each",), repeat=Repeat(body=(script("code"),), until="code")),
        Step(key="which", kind="branch", after=("again",), branch=Branch(labels=("yes", "no"), script="is_bad")),
        Step(key="ask", kind="gate", after=("which",), when={"which": "no"}, instruction="Sure?", title="Sure?"),
        Step(key="fix", kind="agent", role="coder", after=("which",), when={"which": "yes"}, title="Mend it"),
        Step(key="merge", kind="merge", after=("fix", "ask"), merge=Merge(role="coder"), join="any"),
    ]
)


def dag(count: int, seed: int) -> list[Step]:
    chosen = random.Random(seed)
    steps = [script("step-0")]
    for n in range(1, count):
        before = sorted(set(chosen.choices(range(max(0, n - 20), n), k=chosen.randint(1, 3))))
        steps.append(script(f"step-{n}", *(f"step-{m}" for m in before), title="Do what must be done"))
    return steps


def run_of(steps: list[Step], ways: dict[str, str] | None = None, **statuses: str) -> Figure:
    return figure_of_run(steps, {step.key: statuses.get(step.key, "pending") for step in steps}, ways or {})


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_drawn_with_its_bodies() -> None:
    figure = figure_of_plan(EVERY_KIND)
    assert [(node.key, node.name, node.parent) for node in figure.nodes] == [
        ("list", "list", None), ("each", "each", None), ("each/do", "do", "each"), ("each/check", "check", "each"),
        ("again", "again", None), ("again/code", "code", "again"), ("which", "which", None), ("ask", "ask", None),
        ("fix", "fix", None), ("merge", "merge", None),
    ]  # fmt: skip


def test_steps_are_drawn_behind_those_they_wait_for_in_whatever_order_they_are_written() -> None:
    figure = figure_of_plan(Plan.of([script("c", "b"), script("b", "a"), script("a")]))
    assert [node.key for node in figure.nodes] == ["a", "b", "c"]


def test_a_run_shows_the_way_that_was_taken_and_what_did_not_begin() -> None:
    steps = [step for step in EVERY_KIND.steps if step.key in ("which", "ask", "fix")]
    steps[0] = steps[0].model_copy(update={"after": ()})
    figure = run_of(steps, {"which": "yes"}, which="succeeded", ask="skipped")
    assert {node.key: [edge.is_taken for edge in node.edges] for node in figure.nodes} == {
        "which": [],
        "ask": [False],
        "fix": [True],
    }


def children_of(parent: str, count: int) -> Iterator[Step]:
    for n in range(count):
        yield script(f"{parent}/{n}/do", "list", parent=parent)


def test_children_stand_in_their_parent_and_templates_where_there_are_none_yet() -> None:
    first = list(EVERY_KIND.steps[:3])
    figure = run_of([*first, *children_of("each", 2)])
    assert [(node.key, node.name, node.after) for node in figure.nodes if node.parent == "each"] == [
        # What the map waits for, its children wait for; that is drawn once.
        ("each/0/do", "0/do", ()),
        ("each/1/do", "1/do", ()),
    ]
    assert [(node.key, node.status) for node in figure.nodes if node.parent == "again"] == [("again/code", "")]


def test_of_a_thousand_children_those_are_drawn_at_which_people_look() -> None:
    steps = [*EVERY_KIND.steps[:2], *children_of("each", 1_000)]
    figure = run_of(steps, **{"each/7/do": "failed", "each/500/do": "running"})
    drawn = [node for node in figure.nodes if node.parent == "each"]
    assert [(node.name, node.what) for node in drawn] == [
        ("998 more", "998 pending"), ("7/do", "script work"), ("500/do", "script work"),
    ]  # fmt: skip
    assert len(run_of([*steps[:2], *children_of("each", MOST_CHILDREN)]).nodes) == MOST_CHILDREN + 2


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_plan_as_text() -> None:
    assert draw_text(figure_of_plan(EVERY_KIND)).splitlines() == [
        "list          script work",
        "each          map over list, 3 at once, 1 may fail",
        "┊  do         script work",
        "┊  check      script work",
        "again         repeat until code passes, at most 3x",
        "┊  code       script work",
        "which         branch by is_bad",
        "├─ [no] ask   asks: Sure?",
        "├─ [yes] fix  agent coder  “Mend it”",
        "└─ merge      merge, conflicts to coder  ← first of fix, ask",
    ]


def test_a_run_as_text_says_where_each_step_stands() -> None:
    text = draw_text(run_of([script("a"), script("b", "a"), script("c", "a")], a="succeeded", b="running", c="failed"))
    assert text.splitlines() == ["✓ a     script work", "├─ ● b  running  script work", "└─ ✗ c  failed  script work"]


def test_two_hundred_steps_are_two_hundred_lines_that_fit() -> None:
    steps = [script("plan"), *(script(f"s{n}", "plan", title="x" * 200) for n in range(198))]
    steps.append(script("end", *(f"s{n}" for n in range(198))))
    lines = draw_text(figure_of_plan(Plan.of(steps)), width=100).splitlines()
    assert len(lines) == 200
    assert max(map(len, lines)) == 100
    assert lines[-1].rstrip() == "└─ end   script work  ← after s0, s1, s2 and 195 more"


# --- Mermaid ----------------------------------------------------------------------------------------------------------


def test_a_plan_as_mermaid() -> None:
    assert draw_mermaid(figure_of_plan(EVERY_KIND)).splitlines() == [
        "flowchart TD",
        '  n0["list<br/>script work"]',
        '  subgraph n1 ["each · map over list, 3 at once, 1 may fail"]',
        '    n2["do<br/>script work"]',
        '    n3["check<br/>script work"]',
        "  end",
        '  subgraph n4 ["again · repeat until code passes, at most 3x"]',
        '    n5["code<br/>script work"]',
        "  end",
        '  n6{"which<br/>branch by is_bad"}',
        '  n7{{"ask<br/>asks: Sure?"}}',
        '  n8(["fix<br/>agent coder<br/>Mend it"])',
        '  n9[/"merge<br/>merge, conflicts to coder"\\]',
        "  n0 --> n1",
        "  n2 --> n3",
        "  n1 --> n4",
        '  n5 -. "until code passes, at most 3x" .-> n5',
        "  n4 --> n6",
        '  n6 -->|"no"| n7',
        '  n6 -->|"yes"| n8',
        '  n8 -->|"first"| n9',
        '  n7 -->|"first"| n9',
    ]


def test_a_run_as_mermaid_has_a_class_for_each_state() -> None:
    text = draw_mermaid(run_of([script(status) for status in STATUSES], **{status: status for status in STATUSES}))
    assert re.findall(r"^  class (\S+) (\w+)$", text, re.MULTILINE) == [
        ("n0,n1,n2,n3", "open"), ("n4", "running"), ("n5", "waiting"), ("n6", "succeeded"), ("n7", "failed"),
        ("n8", "cancelled"), ("n9", "skipped"), ("n10", "superseded"),
    ]  # fmt: skip


NASTY = '"]; click n0 "javascript:x" %% <b>&`*_[]{}|#35;\nend'
anything = st.text(max_size=40)


@given(anything | st.just(NASTY), anything | st.just(NASTY))
def test_nothing_that_a_plan_says_is_markup_in_mermaid(said: str, label: str) -> None:
    steps = (
        Step(key="a", kind="branch", branch=Branch(labels=(label, "other"), script=said), title=said),
        Step(key="b", kind="gate", instruction=said, title=said, after=("a",), when={"a": label}),
    )
    lines = draw_mermaid(figure_of_plan(Plan(steps=steps))).splitlines()
    text = r'"[\w .,:/…“”←()+=?!–·#;-]*"'
    assert re.fullmatch(rf"  n0\{{{text}\}}".replace("#;-]*", "#;<>-]*"), lines[1])
    assert re.fullmatch(rf"  n1\{{\{{{text}\}}\}}".replace("#;-]*", "#;<>-]*"), lines[2])
    assert re.fullmatch(rf"  n0 -->(\|{text}\|)? n1", lines[3])
    assert len(lines) == 4
    # The only angle brackets are those of our own line breaks.
    assert "<" not in "".join(lines[1:3]).replace("<br/>", "")


# --- SVG --------------------------------------------------------------------------------------------------------------


def texts(svg: str, style: str) -> list[str]:
    return [
        element.text or ""
        for element in ElementTree.fromstring(svg).iter(f"{SVG}text")
        if element.get("class") == style
    ]


def test_an_svg_shows_every_step_its_state_and_the_labels_of_its_edges() -> None:
    steps = list(EVERY_KIND.steps)
    statuses = dict(zip((step.key for step in steps), STATUSES, strict=False))
    svg = draw_svg(figure_of_run(steps, statuses, {"which": "yes"}), title="Run 1")
    assert texts(svg, "name") == ["list", "each", "do", "check", "again", "code", "which", "ask", "fix", "merge"]
    assert texts(svg, "state") == list(STATUSES[:7])
    assert texts(svg, "label") == ["no", "yes", "first", "first"]
    root = ElementTree.fromstring(svg)
    assert root.findtext(f"{SVG}title") == root.get("aria-label") == "Run 1"
    # Colours of states are for both kinds of screens.
    assert "prefers-color-scheme: dark" in svg
    assert len([path for path in root.iter(f"{SVG}path") if "passed" in path.get("class", "")]) == 1


@given(anything | st.just("</text><script>alert(1)</script>"), anything | st.just('"><script>'))
def test_nothing_that_a_plan_says_is_markup_in_svg(said: str, title: str) -> None:
    steps = (
        Step(key="a", kind="branch", branch=Branch(labels=(said, "other"), script=said), title=title),
        Step(key="b", kind="gate", instruction=said, title=title, after=("a",), when={"a": said}),
    )
    root = ElementTree.fromstring(draw_svg(run_of(list(steps), a="running"), title=title))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "style", "defs", "marker", "path", "g", "text", "polygon", "rect",
    }  # fmt: skip
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not any(name.startswith("on") or name == "href" for name in attributes)


def test_steps_with_the_same_neighbours_stand_in_a_grid_that_one_line_reaches() -> None:
    def lines(count: int) -> int:
        fan = [f"s{n}" for n in range(count)]
        plan = Plan.of([script("plan"), *(script(key, "plan") for key in fan), script("end", *fan)])
        svg = draw_svg(figure_of_plan(plan), title="")
        assert texts(svg, "name") == ["plan", *fan, "end"]
        return svg.count('class="edge"')

    assert lines(GRID_FROM - 1) == 2 * (GRID_FROM - 1)
    assert lines(200) == 2


def test_two_hundred_steps_are_drawn_within_seconds_and_a_few_screens() -> None:
    svg = draw_svg(figure_of_plan(Plan.of(dag(200, seed=1))), title="")
    root = ElementTree.fromstring(svg)
    assert len(texts(svg, "name")) == 200
    assert float(root.get("width", "inf")) < 6_000
    assert float(root.get("height", "inf")) < 12_000


# --- layers -----------------------------------------------------------------------------------------------------------


def laid_out(steps: list[Step]) -> tuple[list[Box], Layout]:
    boxes = [Box(key=step.key, width=100 + 10 * (n % 7), height=40 + 8 * (n % 3)) for n, step in enumerate(steps)]
    return boxes, lay_out(boxes, [(key, step.key) for step in steps for key in step.after])


@pytest.mark.parametrize("seed", range(5))
def test_no_box_covers_another_and_lines_run_downwards_from_box_to_box(seed: int) -> None:
    steps = dag(80, seed)
    boxes, layout = laid_out(steps)
    places = {box.key: (*layout.corners[box.key], box.width, box.height) for box in boxes}
    rows: dict[int, list[tuple[float, float]]] = {}
    for x, y, width, height in places.values():
        assert 0 <= x <= layout.width - width + 0.01
        assert 0 <= y <= layout.height - height + 0.01
        rows.setdefault(round(y + height / 2), []).append((x, x + width))
    for row in rows.values():
        row.sort()
        assert all(left[1] + BOX_GAP <= right[0] + 0.01 for left, right in pairwise(row))
    for (source, target), points in layout.lines.items():
        x, y, width, height = places[source]
        assert points[0] == pytest.approx((x + width / 2, y + height))
        x, y, width, height = places[target]
        assert points[-1] == pytest.approx((x + width / 2, y))
        assert all(upper[1] < lower[1] for upper, lower in pairwise(points))


def test_a_line_passes_beside_the_boxes_of_the_layers_between() -> None:
    _, layout = laid_out([script("a"), script("b", "a"), script("c", "b"), script("d", "a", "c")])
    points = layout.lines[("a", "d")]
    x, y = layout.corners["b"]
    beside = [point for point in points if y <= point[1] <= y + 48]
    assert beside
    assert all(px < x or px > x + 110 for px, _ in beside)


def test_lines_that_need_not_cross_do_not() -> None:
    steps = [script("a"), script("b"), script("c"), script("z", "a"), script("y", "b"), script("x", "c")]
    _, layout = laid_out([steps[0], steps[1], steps[2], steps[5], steps[4], steps[3]])
    order = sorted("xyz", key=lambda key: layout.corners[key][0])
    assert order == ["z", "y", "x"]


def test_nothing_has_no_size() -> None:
    assert lay_out([], []) == Layout(corners={}, lines={}, width=0, height=0)
