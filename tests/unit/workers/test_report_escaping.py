"""Text of a repository stays text, read by a real Markdown parser."""

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from chargehand.workers.report.escaping import code, fence, prose, remark

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PLAIN = {"text", "code_inline", "text_special", "softbreak"}

PIECES = [" ", "\n", "\n\n", "| --- |", "\u202e", "x"]
PIECES += [
    "`",
    "``",
    "```",
    "|",
    "#",
    "[a](http://b.c)",
    "![a](b)",
    "<b>",
    "<!--",
    "&lt;",
    "---",
    "a@b.c",
    "www.a.b",
    "https://a.b",
    "\\",
    "*",
    "_",
    "~~",
    "1.",
    "-",
    ">",
]

# Characters that mean something to Markdown are likelier here than in any real text.
hostile = st.one_of(
    st.text(),
    st.text(alphabet="`*_[]()<>!#|~-+=:&;@\\ \n\t123.abw/'\"$"),
    st.lists(st.sampled_from(PIECES)).map("".join),
)


def inline_of(markdown: str) -> list[Token]:
    tokens = MARKDOWN.parse(markdown)
    assert [token.type for token in tokens] in ([], ["paragraph_open", "inline", "paragraph_close"]), markdown
    return (tokens[1].children or []) if tokens else []


@given(hostile)
@example("`@`[x](http://evil.example)")
@example("a\n===\nb")
@example("1) x")
def test_prose_is_one_paragraph_of_plain_text(text: str) -> None:
    assert {token.type for token in inline_of(prose(text))} <= PLAIN
    assert {token.type for token in inline_of(prose(f"x {text}"))} <= PLAIN


@given(hostile)
@example("@`a``b`[x](http://evil.example)")
@example("`a``b` `c`<b>")
def test_remark_is_one_paragraph_of_text_and_code(text: str) -> None:
    assert {token.type for token in inline_of(remark(text))} <= PLAIN


@given(st.text(alphabet="abc _*[]<>#\\!&-."))
def test_prose_shows_the_same_words(text: str) -> None:
    shown = "".join(token.content for token in inline_of(prose(text)))
    assert shown == " ".join(text.split())


@given(hostile)
def test_code_is_a_single_line_without_bare_pipes(text: str) -> None:
    span = code(text)
    assert "\n" not in span
    assert "|" not in span
    assert {token.type for token in inline_of(f"x {span} y")} <= PLAIN


@given(hostile)
def test_fence_is_one_block_and_holds_everything(text: str) -> None:
    tokens = MARKDOWN.parse(f"before\n\n{fence(text, 'python')}\n\nafter")
    assert [token.type for token in tokens if token.level == 0 and token.nesting >= 0] == [
        "paragraph_open",
        "fence",
        "paragraph_open",
    ]


@given(hostile)
def test_nothing_becomes_a_link_of_itself(text: str) -> None:
    outside_code = "".join(token.content for token in inline_of(prose(text)) if token.type == "code_inline")
    assert set(outside_code) <= {"@", "`"}
    assert "://" not in prose(text).replace("\\://", "")
    assert "www." not in prose(text).lower().replace("www\\.", "")


def test_direction_overrides_are_shown() -> None:
    assert prose("safe \u202e evil") == "safe \\\\u202e evil"
    assert "\\u202e" in fence("x = 1  # \u202e")


def test_names_with_underscores_stay_readable() -> None:
    assert prose("secret_text of parcels_of") == "secret_text of parcels_of"
    assert prose("_secret_") == "\\_secret\\_"


def test_long_prose_is_cut_with_an_ellipsis() -> None:
    assert prose("word " * 100, limit=12) == "word word w…"
