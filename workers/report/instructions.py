"""Finds passages of a repository that tell its reviewers what to conclude, so that a report can quote them as data.

This finds honest examples and careless attacks. It protects nothing: what protects is that no text of a repository can
widen what an agent may do.
"""

import re

from chargehand.workers.report.contents import TaintedInstruction

_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|suppress|dismiss)\s+(?:\w+\s+){0,3}"
    r"(?:findings?|warnings?|vulnerabilit(?:y|ies)|issues?|instructions?|prompts?|rules?|results?)\b"
    r"|\b(?:do\s+not|don't|never)\s+(?:report|flag|mention|open\s+issues)\b"
    r"|\b(?:state|say|report|answer|conclude)\s+that\s+(?:no|there\s+(?:are|is)\s+no)\s+(?:\w+\s+){0,2}"
    r"(?:problems?|findings?|issues?|vulnerabilit(?:y|ies))\b"
    r"|\bsystem\s+prompt\b",
    re.IGNORECASE,
)

# A line longer than this is data or minified code; nobody reads it and no pattern should.
LINE_CHARACTERS = 2_000
# Enough for a person to see what is going on.
PASSAGES_PER_FILE = 5


def find_instructions(path: str, text: str) -> tuple[TaintedInstruction, ...]:
    """The passages of one document that try to steer a reviewer; lines that follow one another are one passage."""
    passages: list[TaintedInstruction] = []
    last_line = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > LINE_CHARACTERS or not _ORDERS.search(line):
            continue
        if passages and number == last_line + 1:
            begun = passages.pop()
            passages.append(TaintedInstruction(path=path, line=begun.line, text=f"{begun.text} {line.strip()}"))
        elif len(passages) == PASSAGES_PER_FILE:
            break
        else:
            passages.append(TaintedInstruction(path=path, line=number, text=line.strip()))
        last_line = number
    return tuple(passages)
