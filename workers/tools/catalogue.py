"""The tools that roles may name; importing this module registers them."""

from collections.abc import Mapping

from chargehand.workers.tools.ask_person import ask_person
from chargehand.workers.tools.colleagues import delegate, hand_off
from chargehand.workers.tools.edit_file import edit_file, write_file
from chargehand.workers.tools.fixes import apply_fix, list_fixes
from chargehand.workers.tools.passages import recall
from chargehand.workers.tools.read_file import read_file
from chargehand.workers.tools.registry import TOOLS, Tool
from chargehand.workers.tools.request_replan import request_replan
from chargehand.workers.tools.search_text import search_text
from chargehand.workers.tools.shared_state import read_state, update_state

BUILT_IN: tuple[Tool, ...] = (
    apply_fix,
    ask_person,
    delegate,
    edit_file,
    hand_off,
    list_fixes,
    read_file,
    read_state,
    recall,
    request_replan,
    search_text,
    update_state,
    write_file,
)


def registered_tools() -> Mapping[str, Tool]:
    """Every tool by name: ours, and those that the user's modules have registered until now."""
    return {**{tool.name: tool for tool in BUILT_IN}, **TOOLS}
