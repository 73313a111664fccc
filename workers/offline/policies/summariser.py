"""Summarises an agent's first turns by what its calls were and how each result begins."""

from collections.abc import Mapping
from typing import Any

from chargehand.workers.offline import NOTICE
from chargehand.workers.offline.conversation import Conversation, objects_under
from chargehand.workers.offline.policies.moves import Move, finish

MAX_CHARACTERS = 200
MAX_LINES = 60


def summarise(conversation: Conversation) -> Move:
    """One line for each call; a rule cannot tell what mattered."""
    turns = objects_under(conversation.inputs, "turns")
    lines = [line for turn in turns for line in _lines(turn)]
    text = "\n".join([f"By rules ({NOTICE}):", *lines[-MAX_LINES:]])
    return finish("submit_summary", f"{len(lines)} calls listed.", summary=text)


def _lines(turn: Mapping[str, Any]) -> list[str]:
    if "summary_of_the_first" in turn:
        return str(turn.get("text", "")).splitlines()[1:]
    return [
        f"{call.get('tool')} {str(call.get('arguments'))[:MAX_CHARACTERS]}: {call.get('outcome')}, "
        f"{' '.join(str(call.get('result')).split())[:MAX_CHARACTERS]}"
        for call in objects_under(turn, "calls")
    ]
