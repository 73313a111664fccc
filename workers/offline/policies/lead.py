"""Gives questions to a researcher, one each, and puts the answers together; a single one is handed off."""

from collections.abc import Sequence
from typing import Any

from chargehand.workers.offline.conversation import Conversation, payload
from chargehand.workers.offline.policies.moves import Move, finish
from chargehand.workers.offline.policies.researcher import research

# Whose answers have quotes.
COLLEAGUE = "researcher"
READING = frozenset({"read_file", "recall", "search_text"})


def answer(conversation: Conversation) -> Move:
    """Delegate several questions, hand a single one off, or look oneself where the tools are there for it."""
    given = conversation.arguments.get("questions")
    questions = [str(question) for question in given] if isinstance(given, list) else []
    if questions and "delegate" in conversation.tools:
        return _delegate(conversation, questions)
    if "hand_off" in conversation.tools and not READING.intersection(conversation.tools):
        return _hand_off(conversation)
    return research(conversation)


def _delegate(conversation: Conversation, questions: Sequence[str]) -> Move:
    asked = conversation.calls_of("delegate")
    if len(asked) < len(questions):
        question = questions[len(asked)]
        return Move(
            says=f"Asking a {COLLEAGUE}: question {len(asked) + 1} of {len(questions)}.",
            calls=(("delegate", {"to": COLLEAGUE, "instruction": question}),),
        )
    given = [_result(call.text) for call in asked]
    found = [result.get("found") is True for result in given]
    lines = [
        f"{question} {result.get('answer') or result.get('error') or 'No answer.'}"
        for question, result in zip(questions, given, strict=False)
    ]
    return finish(
        "submit_answer",
        f"{sum(found)} of {len(questions)} questions answered by colleagues.",
        question=" ".join(questions),
        found=any(found),
        answer="\n".join(lines),
        quotes=[quote for result, is_found in zip(given, found, strict=True) if is_found for quote in result["quotes"]],
    )


def _hand_off(conversation: Conversation) -> Move:
    question = str(conversation.arguments.get("question") or conversation.task or conversation.goal)
    handed = conversation.calls_of("hand_off")
    if not handed:
        return Move(
            says=f"A {COLLEAGUE} can read the files.",
            calls=(("hand_off", {"to": COLLEAGUE, "instruction": question}),),
        )
    # Taken over, this is not asked: only a refusal, or a colleague without a result, comes back.
    why = str(_result(handed[-1].text).get("error") or handed[-1].text)
    return finish("submit_answer", "Nobody took it.", question=question, found=False, answer=why, quotes=[])


def _result(text: str) -> dict[str, Any]:
    value = payload(text)
    return value if isinstance(value, dict) else {"error": text}
