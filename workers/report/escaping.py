"""Text of a repository inside Markdown, so that it cannot forge headings, tables, links, images or HTML.

Not protected against: words that deceive a reader. Text stays readable, also when it lies.
"""

import re
import unicodedata

# Characters that open something inside a CommonMark or GitHub paragraph.
_INLINE = re.compile(r"[\\`*\[\]<>~&$]")
# An underscore within a word opens nothing; escaping it there would only make names ugly.
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_LINE_START = re.compile(r"^([#+=\-]|\d+(?=[.)]))")
_LINK_COLON = re.compile(r"(?i)(?:(?<=mailto)|(?<=xmpp)):|:(?=//)")
_WWW = re.compile(r"(?i)(www)\.")
_AT = re.compile(r"@+")
_CODE_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_BACKTICKS = re.compile(r"`+")

# Longest text of an agent or analyser in one place; more is a dump, not an explanation.
PROSE_CHARACTERS = 2_000


def visible(text: str, *, keep: str = "") -> str:
    """The text with control, bidirectional and other invisible characters written as escapes.

    A right-to-left override would otherwise show a reader other code than the machine runs.
    """

    def shown(character: str) -> str:
        if character in keep or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
            return character
        return character.encode("unicode_escape").decode("ascii")

    return "".join(map(shown, text))


def prose(text: str, *, limit: int = PROSE_CHARACTERS) -> str:
    """Text as part of a paragraph, a list item or a table cell: one line, nothing in it is markup."""
    line = visible(" ".join(text.split()))
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    return _escaped(line, at_start=True)


def _escaped(line: str, *, at_start: bool) -> str:
    line = _INLINE.sub(r"\\\g<0>", line)
    line = _UNDERSCORE.sub(r"\\_", line)
    if at_start:
        line = _LINE_START.sub(lambda match: match[1] + "\\" if match[1].isdigit() else "\\" + match[1], line)
    line = _LINK_COLON.sub(r"\:", line)
    line = _WWW.sub(r"\1\\.", line)
    # No backslash stops an address or a mention, and two dialects disagree about one before a pipe.
    return _AT.sub(r"`\g<0>`", line).replace("|", "&#124;")


def remark(text: str, *, limit: int = PROSE_CHARACTERS) -> str:
    """Prose whose `code` in single backticks stays code, for sentences of agents and tools."""
    line = " ".join(text.split())
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    written = ""
    for position, piece in enumerate(_CODE_SPAN.split(line)):
        if not piece:
            continue
        rendered = code(piece) if position % 2 else _escaped(visible(piece), at_start=not written)
        # Two spans that touch would read as one with another fence, and what follows would no longer be escaped.
        touching = written.endswith("`") and rendered.startswith("`")
        written += f" {rendered}" if touching else rendered
    return written


def code(text: str) -> str:
    """Text as a code span that is safe in a table cell too."""
    line = visible(text)
    if not line.strip():
        return "(empty)"
    if "|" in line:  # a code span knows no escape for it that every dialect reads alike
        return prose(line)
    ticks = "`" * (max((len(run) for run in _BACKTICKS.findall(line)), default=0) + 1)
    pad = " " if line[0] in "` " or line[-1] in "` " else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fence(text: str, language: str = "") -> str:
    """Text as a fenced block whose fence is longer than any run of backticks inside."""
    body = visible(text.replace("\r\n", "\n").replace("\r", "\n"), keep="\n\t").strip("\n")
    ticks = "`" * max(3, max((len(run) for run in _BACKTICKS.findall(body)), default=0) + 1)
    return f"{ticks}{language}\n{body}\n{ticks}"
