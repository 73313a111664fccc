"""Takes an agent's answer for a fact, sentence by sentence as far as it is short; people's words are kept by a rule."""

import re
from typing import Any

from chargehand.workers.offline import NOTICE
from chargehand.workers.offline.conversation import Conversation, objects_under
from chargehand.workers.offline.policies.moves import Move, finish

MAX_FACTS = 5
MAX_CHARACTERS = 300
# A rule cannot tell what matters.
IMPORTANCE = 0.4
# Answers by rules say so in them, and are no facts.
_OF_RULES = re.compile(re.escape(NOTICE), re.IGNORECASE)
# So answers the offline researcher, who only points.
_POINTER = "See "
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def extract(conversation: Conversation) -> Move:
    """The first sentence of each agent's statement that is plain prose; nothing that a person said."""
    facts: list[dict[str, Any]] = []
    for statement in objects_under(conversation.inputs.get("gather"), "statements"):
        text = str(statement.get("text", "")).strip()
        if statement.get("trust") == "person" or text.startswith(("{", "[", _POINTER)) or _OF_RULES.search(text):
            continue
        first = _SENTENCE.split(text)[0]
        if first and len(first) <= MAX_CHARACTERS:
            facts.append({"text": first, "evidence": [str(statement.get("id"))], "importance": IMPORTANCE})
    kept = facts[:MAX_FACTS]
    return finish("submit_facts", f"{len(kept)} first sentences of answers taken for facts.", facts=kept)
