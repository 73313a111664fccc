"""The pure parts of the pages: Markdown, patches, timelines, words."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.orchestrator.pages import timeline
from chargehand.orchestrator.pages.changes import kind_of, lines_of
from chargehand.orchestrator.pages.markdown import MOST_CHARACTERS, to_html
from chargehand.orchestrator.pages.remembered import marked
from chargehand.orchestrator.pages.rendering import ago, page, pretty, seconds, usd
from chargehand.orchestrator.pages.timeline import MOST_BARS, Bar, Mark, timeline_of

BEGAN = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)


def mark(step: str, kind: str, at: float, what: str = "") -> Mark:
    return Mark(step=step, kind=kind, at=BEGAN + timedelta(seconds=at), what=what)


def drawn(*marks: Mark, until: float = 10.0) -> dict[str, tuple[Bar, ...]]:
    found = timeline_of(marks, began_at=BEGAN, until=BEGAN + timedelta(seconds=until))
    return {lane.step: lane.bars for lane in found.lanes}


# --- Markdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("# A\n\n- b\n\n| c | d |\n|---|---|\n| 1 | 2 |", "<td>1</td>", "|"),
        ("<script>alert(1)</script>", "&lt;script&gt;", "<script"),
        ("<img src=x onerror=alert(1)>", "&lt;img", "<img"),
        ("[a](javascript:alert(1))", "javascript", "href"),
        ("[a](data:text/html,x)", "data:", "href"),
        ("[a](https://example.org)", 'href="https://example.org" rel="nofollow noreferrer noopener"', "<script"),
        ("![a](https://example.org/x.png)", "href", "<img"),
        ('[a](https://example.org "x\\" onmouseover=alert(1)")', "&quot;", '" onmouseover'),
        ("`<b>`", "<code>&lt;b&gt;</code>", "<b>"),
    ],
)
def test_markdown_becomes_structure_and_links_and_nothing_else(text: str, wanted: str, unwanted: str) -> None:
    html = str(to_html(text))
    assert wanted in html
    assert unwanted not in html


def test_a_report_without_end_is_cut() -> None:
    assert len(to_html("x" * (MOST_CHARACTERS * 2))) < MOST_CHARACTERS + 100


# --- patches ----------------------------------------------------------------------------------------------------------


def test_lines_of_a_patch_are_what_they_look_like() -> None:
    patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n same\n"
    assert [line.kind for line in lines_of(patch)] == ["file", "file", "file", "place", "removed", "added", "same"]
    assert kind_of("") == "same"


# --- timelines --------------------------------------------------------------------------------------------------------


def test_a_step_has_bars_for_its_worker_its_calls_and_its_tools() -> None:
    assert drawn(
        mark("a", "step.claimed", 1),
        mark("a", "model.requested", 2, "small-1"),
        mark("a", "model.responded", 3),
        mark("a", "tool.started", 4, "look"),
        mark("a", "tool.finished", 5, "look"),
        mark("a", "step.finished", 6),
    ) == {
        "a": (
            Bar(kind="held", start=1, end=6),
            Bar(kind="model", start=2, end=3, what="small-1"),
            Bar(kind="tool", start=4, end=5, what="look"),
        )
    }


def test_a_wait_ends_what_was_under_way_and_lasts_until_the_answer() -> None:
    bars = drawn(mark("a", "step.claimed", 0), mark("a", "step.waiting", 2), mark("a", "signal.received", 7))["a"]
    assert bars == (Bar(kind="held", start=0, end=2), Bar(kind="waiting", start=2, end=7))


def test_what_goes_on_is_drawn_until_now() -> None:
    assert drawn(mark("a", "step.claimed", 4)) == {"a": (Bar(kind="held", start=4, end=10),)}


def test_more_bars_than_can_be_seen_are_counted() -> None:
    marks = [mark(f"s{n}", kind, n) for n in range(MOST_BARS + 7) for kind in ("step.claimed", "step.finished")]
    found = timeline_of(marks, began_at=BEGAN, until=BEGAN + timedelta(seconds=1))
    assert found.left_out == 7
    assert sum(len(lane.bars) for lane in found.lanes) == MOST_BARS


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(timeline.KINDS), st.floats(-5, 50)),
        max_size=30,
    )
)
def test_bars_lie_within_the_run_whatever_the_journal_says(facts: list[tuple[str, str, float]]) -> None:
    found = timeline_of([mark(*one) for one in facts], began_at=BEGAN, until=BEGAN + timedelta(seconds=50))
    for lane in found.lanes:
        for bar in lane.bars:
            assert 0 <= bar.start <= bar.end <= found.seconds


# --- words ------------------------------------------------------------------------------------------------------------


def test_lengths_and_moneys_are_said_as_people_say_them() -> None:
    assert [seconds(value) for value in (0.0123, 3.21, 125, 7300)] == ["12 ms", "3.2 s", "2 min 5 s", "2 h 1 min"]
    assert ago(BEGAN, BEGAN + timedelta(seconds=65)) == "65.0 s ago"
    assert usd(1_234) == "$0.0012"
    assert pretty({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'


def test_words_that_were_asked_for_are_marked_and_no_letter_is_lost() -> None:
    pieces = marked("The counter opens at <nine>.", "When are counters open?")
    assert "".join(piece for piece, _ in pieces) == "The counter opens at <nine>."
    assert [piece for piece, is_asked in pieces if is_asked] == ["counter", "opens"]


def test_a_page_says_what_browsers_may_do_with_it() -> None:
    answer = page("problem.html", status_code=404, title="<b>", detail="x", visitor=None, here="")
    assert answer.status_code == 404
    assert b"&lt;b&gt;" in answer.body
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_report_that_is_looked_at_again_is_not_made_again() -> None:
    assert to_html("# Report\n\n[a](https://example.com)") is to_html("# Report\n\n[a](https://example.com)")
