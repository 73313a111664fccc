"""Odds over labels by the words of the inputs: a label that stands in them is likely, otherwise nothing is decided."""

import json
import re

from chargehand.workers.offline.conversation import Conversation
from chargehand.workers.offline.policies.moves import Move, finish

# As sure as a rule about words may be.
LIKELY = 0.9

_WORD = re.compile(r"[a-z0-9]+")


def choose(conversation: Conversation) -> Move:
    """Likely is the label whose words stand most often in the inputs; a tie decides nothing."""
    given = conversation.arguments.get("labels")
    labels = [str(label) for label in given] if isinstance(given, list) else []
    words = _WORD.findall(json.dumps(conversation.inputs, ensure_ascii=False).lower())
    counted = {label: sum(words.count(word) for word in _WORD.findall(label.lower())) for label in labels}
    best = max(counted.values(), default=0)
    likely = [label for label, count in counted.items() if count == best]
    if best and len(likely) == 1:
        rest = (1 - LIKELY) / max(len(labels) - 1, 1)
        odds = {label: LIKELY if label == likely[0] else rest for label in labels}
        reason = f"The inputs say {likely[0]!r} {best} times."
    else:
        odds = {label: 1 / len(labels) for label in labels}
        reason = "The words of the inputs do not tell the ways apart."
    rows = [{"label": label, "probability": probability} for label, probability in odds.items()]
    return finish("submit_choice", reason, odds=rows, reason=reason)
