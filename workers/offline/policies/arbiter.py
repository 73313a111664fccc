"""Judges two statements by their words: the same ones, the same but for a negation or a number, or others."""

import re
from typing import Any

from chargehand.workers.offline.conversation import Conversation, objects_under
from chargehand.workers.offline.policies.moves import Move, finish

_WORD = re.compile(r"[a-z]+n't|[a-z]+|\d+(?:\.\d+)?")
_NEGATIONS = frozenset({"not", "no", "never", "none", "without", "cannot"})
_FILLERS = frozenset({"a", "an", "the", "is", "are", "be", "do", "does", "of", "that", "it"})


def judge(conversation: Conversation) -> Move:
    """Each pair by its words alone; what rules cannot tell is different."""
    rows: list[dict[str, Any]] = []
    for pair in objects_under(conversation.inputs.get("pair"), "pairs"):
        verdict, reason = compare(str(pair.get("newer", "")), str(pair.get("older", "")))
        rows.append({"pair": str(pair.get("id")), "verdict": verdict, "reason": reason})
    return finish("submit_judgements", f"{len(rows)} pairs compared word by word.", judgements=rows)


def compare(newer: str, older: str) -> tuple[str, str]:
    """`same`, `contradicts` or `different`, and why."""
    words, numbers, denied = _parts(newer)
    other_words, other_numbers, other_denied = _parts(older)
    if words != other_words:
        return "different", "They have other words."
    if denied != other_denied:
        return "contradicts", "The same words, but one denies them."
    if numbers != other_numbers:
        return "contradicts", "The same words, but other numbers."
    return "same", "The same words."


def _parts(text: str) -> tuple[frozenset[str], tuple[str, ...], bool]:
    found = _WORD.findall(text.lower())
    numbers = tuple(word for word in found if word[0].isdigit())
    negations = [word for word in found if word in _NEGATIONS or word.endswith("n't")]
    words = {word for word in found if not word[0].isdigit()} - _FILLERS - set(negations)
    return frozenset(words), numbers, len(negations) % 2 == 1
