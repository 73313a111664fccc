"""Markdown of reports as HTML that holds nothing but text, structure and links; pure."""

from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

# Longer than any report of ours; what a model wrote beyond it is not worth a browser's minute.
MOST_CHARACTERS = 400_000
# A page is read again with each event, and the longest report takes seconds to be made.
REMEMBERED = 16


def _link_open(
    renderer: RendererHTML, tokens: list[Token], place: int, options: OptionsDict, _environment: EnvType
) -> str:
    """Links lead away without telling where from, and lend nobody their rank."""
    tokens[place].attrSet("rel", "nofollow noreferrer noopener")
    return renderer.renderToken(tokens, place, options, _environment)


def _made() -> MarkdownIt:
    # Raw HTML is shown as it is written; links to scripts and data are none (`validateLink` of the library).
    reader = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": False})
    # An image would be fetched from wherever a report says, and tell that it is being read.
    reader.enable("table").disable("image")
    reader.add_render_rule("link_open", _link_open)
    return reader


_READER = _made()


@lru_cache(maxsize=REMEMBERED)
def to_html(text: str) -> Markup:
    """The text as safe HTML; raw HTML in it is text, images are links."""
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}\n\n… cut"
    return Markup(_READER.render(shown))
