"""How content that nobody vouches for is shown to a model: fenced, so that it cannot pass for instructions.

A result that is a JSON object or list stays JSON with its `<` escaped; any other text stands between
`<tool_output …>` and `</tool_output>`, each on a line of its own, and cannot close that tag itself. This stops content
from forging the frame; it does not stop a model from believing what it reads. What a model may *do* is bounded
elsewhere: only its role's tools can be called.
"""

import json
import re
from collections.abc import Sequence

from pydantic import JsonValue

_FRAME = "tool_output"
# Possessive: a result may be a bracket and 30 kB of blanks, over which an expression would go back for seconds.
_TAGS = re.compile(rf"<(?=\s*+(?:/\s*+)?{_FRAME})", re.IGNORECASE)
_OPENING = re.compile(rf"\A<{_FRAME} tool=\"[^\"\n]*\">\n")
_CLOSING = f"\n</{_FRAME}>"


def to_json(value: JsonValue) -> str:
    """Compact JSON with sorted keys whose text cannot close a tag around it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).replace("<", "\\u003c")


def fence(tool: str, content: str) -> str:
    """The content of a tool's result as the model is shown it."""
    if content[:1] in ("{", "["):
        try:
            return to_json(json.loads(content))
        except (ValueError, RecursionError):
            pass  # text that only begins like JSON
    return f'<{_FRAME} tool="{tool}">\n{_TAGS.sub("&lt;", content)}{_CLOSING}'


def unfence(shown: str) -> str:
    """What stood in the frame, for a reader that knows it; other text comes back unchanged."""
    opening = _OPENING.match(shown)
    if opening is None or not shown.endswith(_CLOSING):
        return shown
    return shown[opening.end() : len(shown) - len(_CLOSING)]


def inert(text: str, tags: Sequence[str]) -> str:
    """The text with every tag of these names disarmed, whoever wrote it."""
    names = "|".join(re.escape(tag) for tag in tags)
    return re.sub(rf"<(?=\s*+(?:/\s*+)?(?:{names})\b)", "&lt;", text, flags=re.IGNORECASE)
