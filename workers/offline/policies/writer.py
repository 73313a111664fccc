"""Puts the run's outcome into a headline and three lines, from numbers only."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from chargehand.workers.offline import NOTICE
from chargehand.workers.offline.conversation import Conversation, objects_under
from chargehand.workers.offline.policies.moves import Move, finish
from chargehand.workers.offline.policies.planner import is_question

NOT_DONE = "The offline rules only know audits and where-or-how questions: this goal was not carried out"


def write(conversation: Conversation) -> Move:
    """The verdict of an audit, or of answered questions."""
    inputs = conversation.inputs
    verdicts = _unique(objects_under(inputs, "verdicts"), "finding_id")
    counts = Counter(str(verdict.get("verdict")) for verdict in verdicts)
    answers = list(_answers(inputs))
    fixes = _unique(objects_under(inputs, "fixes"), "commit", "rule", "path")
    statuses = Counter(_outcome(fix) for fix in fixes)
    tasks = _unique(objects_under(inputs, "human_tasks"), "subject")
    audited = any(key.startswith("triage") for key in inputs)

    if audited:
        headline = _headline(counts, statuses)
        lines = [
            _audit_line(counts),
            _fix_line(statuses, tasks) + _patch_words(inputs) + _test_words(inputs),
            _answer_line(answers),
        ]
    else:
        found = sum(bool(answer.get("found")) for answer in answers)
        headline = f"{found} of {len(answers)} questions answered with verified passages"
        lines = [_answer_line(answers), *_answer_places(answers)]
        lines = [*lines, "No analyser ran: the goal did not ask for an audit.", "Nothing was changed."][:3]
        if not is_question(conversation.goal):
            headline = "Not done: without a language model this goal only gets passages"
            lines = [f"{NOT_DONE}.", *_passage_lines(answers), "Nothing was changed."]
    notes = [f"Written by rules; {NOTICE}."]
    if not audited and not is_question(conversation.goal):
        notes.append(f"{NOT_DONE}.")
    missing = sorted(key for key, value in inputs.items() if value is None)
    if missing:
        notes.append(f"Without a result: {', '.join(missing)}.")
    if counts["needs_person"] or tasks:
        notes.append("What a rule could not decide is listed for a person and counts neither as a problem nor as safe.")
    return finish(
        "submit_report", "Writing the verdict.", headline=headline, verdict_lines=lines, notes=" ".join(notes)
    )


def _headline(counts: Counter[str], statuses: Counter[str]) -> str:
    confirmed = counts["confirmed"]
    if not confirmed and not counts["needs_person"]:
        start = "No problem confirmed"
    else:
        start = f"{_count(confirmed, 'problem')} confirmed"
    if counts["needs_person"]:
        start += f", {counts['needs_person']} for a person to decide"
    return f"{start}; {_count(statuses['kept'], 'fix', 'fixes')} kept"


def _audit_line(counts: Counter[str]) -> str:
    return (
        f"Audit: {counts['confirmed']} confirmed, {counts['dismissed']} dismissed with a reason, "
        f"{counts['needs_person']} for a person."
    )


def _fix_line(statuses: Counter[str], tasks: list[dict[str, Any]]) -> str:
    if not statuses and not tasks:
        return "Fixes: none was applied."
    parts = [
        f"{statuses[status]} {label}"
        for status, label in (
            ("kept", "kept and proven by the tests"),
            ("reverted", "reverted because a test broke"),
            ("uncovered", "reverted because no test covers it"),
            ("not_proven", "applied but not proven"),
            ("applied", "applied"),
        )
        if statuses[status]
    ]
    if tasks:
        parts.append(f"{len(tasks)} handed to a person")
    return f"Fixes: {', '.join(parts)}."


def _outcome(fix: dict[str, Any]) -> str:
    """What became of a fix; one that was taken out before any test could judge it is told apart."""
    status = str(fix.get("status"))
    uncovered = status == "reverted" and str(fix.get("evidence")).endswith("no test imports this file")
    return "uncovered" if uncovered else status


def _test_words(inputs: dict[str, Any]) -> str:
    """That the tests proved nothing, when they could not run."""
    judged = inputs.get("tests-after")
    before = judged.get("before") if isinstance(judged, dict) else None
    unrunnable = isinstance(before, dict) and before.get("runnable") is False
    return " The tests could not be run." if unrunnable else ""


def _patch_words(inputs: dict[str, Any]) -> str:
    """What the mechanical check said of the patch, if it ran and there is one."""
    verified = inputs.get("verify")
    if not isinstance(verified, dict) or not verified.get("files_changed"):
        return ""
    files = _count(len(verified["files_changed"]), "file")
    return f" The patch changes {files} and {'applies' if verified.get('patch_applies') else 'does not apply'} cleanly."


def _answer_line(answers: list[dict[str, Any]]) -> str:
    if not answers:
        return "Questions: none was answered."
    found = sum(bool(answer.get("found")) for answer in answers)
    verified = sum(answer["verified"] for answer in answers)
    return f"Questions: {found} of {len(answers)} answered with {_count(verified, 'verified quote')}."


def _answer_places(answers: list[dict[str, Any]]) -> list[str]:
    places = [
        f"{quote.get('path')}:{quote.get('line')}"
        for answer in answers
        for quote in answer.get("quotes") or ()
        if isinstance(quote, dict)
    ]
    return [f"Places: {', '.join(places[:5])}."] if places else []


def _passage_lines(answers: list[dict[str, Any]]) -> list[str]:
    """One line about the passages that stand in for what was asked."""
    return _answer_places(answers) or ["No passage of the repository was near enough to the goal."]


def _answers(inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Checked answers, flattened, from whatever list the check gave."""
    seen: set[str] = set()
    for item in _dictionaries(inputs.get("check-answers")):
        answer = item.get("answer")
        if not isinstance(answer, dict):
            continue
        question = str(answer.get("question"))
        if question not in seen:
            seen.add(question)
            verified = item.get("quotes_verified")
            yield {**answer, "verified": verified if isinstance(verified, int) else 0}


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _dictionaries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _dictionaries(inner)


def _unique(items: Iterator[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The last object of each identity: later steps know more than earlier ones."""
    return list({tuple(str(item.get(name)) for name in names): item for item in items}.values())


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
