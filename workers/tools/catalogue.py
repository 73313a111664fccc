"""The tools that roles may name; importing this module registers them."""

from collections.abc import Mapping

from chargehand.workers.tools.colleagues import delegate, hand_off
from chargehand.workers.tools.fixes import apply_fix, list_fixes
from chargehand.workers.tools.passages import recall
from chargehand.workers.tools.read_file import read_file
from chargehand.workers.tools.registry import TOOLS, Tool
from chargehand.workers.tools.search_text import search_text

BUILT_IN: tuple[Tool, ...] = (apply_fix, delegate, hand_off, list_fixes, read_file, recall, search_text)


def registered_tools() -> Mapping[str, Tool]:
    """Every tool by name: ours, and those that the user's modules have registered until now."""
    return {**{tool.name: tool for tool in BUILT_IN}, **TOOLS}
