"""The last chapters: what is not covered, the questions answered, and the run itself."""

from collections.abc import Iterator

from chargehand.workers.findings import CheckedAnswer
from chargehand.workers.report.contents import UNDETECTABLE, ReportInput, RunFacts
from chargehand.workers.report.escaping import code, prose, remark
from chargehand.workers.report.phrases import count, dollars, listing, number

LIST_ITEMS = 30


def not_covered(report: ReportInput) -> Iterator[str]:
    """What nobody looked at: always the classes that the analysers cannot see, then what failed or was left out."""
    yield "## Not covered"
    yield ""
    if report.analysed:
        yield (
            "The analysers cannot see these classes at all. That none is listed above does not mean that there is none:"
        )
        yield ""
        yield from (f"- {name}" for name in UNDETECTABLE)
    else:
        yield "Problems of any kind: no analyser was part of this run."
    rest = [*(f"**Failed:** {remark(gap, limit=400)}" for gap in report.gaps), *map(remark, report.not_covered)]
    if report.uncommitted:
        rest.append("Uncommitted changes: the commit was audited, not the working tree")
    if rest:
        yield ""
        yield "Nor did this run cover:"
        yield ""
        yield from (f"- {line}" for line in rest[:LIST_ITEMS])
        if len(rest) > LIST_ITEMS:
            yield f"- … and {len(rest) - LIST_ITEMS} more"


def answers_from_the_code(answers: tuple[CheckedAnswer, ...]) -> Iterator[str]:
    """Questions with their answers and the passages that were compared with the files."""
    if not answers:
        return
    yield "## Questions answered from the code"
    for checked in answers:
        answer = checked.answer
        yield ""
        yield f"**{prose(answer.question, limit=300)}**"
        yield ""
        yield remark(answer.answer) or ("Answered by the passages below." if answer.found else "Not found.")
        refuted = set(checked.quotes_refuted)
        for quote in answer.quotes:
            place = f"{quote.path}:{quote.line}"
            yield ""
            yield f"{code(place)}{' **is not what the file says**' if place in refuted else ''}"
            yield ""
            yield listing(quote.text, quote.path)
        if answer.quotes or refuted:
            total = checked.quotes_verified + len(refuted)
            yield ""
            yield f"{checked.quotes_verified} of {count(total, 'quote')} found in the file, byte for byte."


def notes(report: ReportInput) -> Iterator[str]:
    """What the reporting agent wants to add."""
    if report.notes.strip():
        yield "## Notes"
        yield ""
        yield remark(report.notes)


def run_facts(report: ReportInput) -> Iterator[str]:
    """What the run cost, and the hash by which it can be checked."""
    facts = report.facts
    yield "## This run"
    yield ""
    if facts.language_model_used is False:
        yield "- No language model was used."
    rows = (
        ("Run", code(facts.run_id) if facts.run_id else None),
        ("Models", ", ".join(map(code, facts.models)) or None),
        ("Model calls", number(facts.calls)),
        ("Tokens", _tokens(facts)),
        ("Cost", dollars(facts.cost_microusd)),
        ("Saved by the prompt cache", dollars(facts.saved_microusd)),
        ("Duration", None if facts.duration_seconds is None else f"{facts.duration_seconds:.1f} s"),
        ("Journal head", code(facts.journal_head) if facts.journal_head else None),
    )
    yield from (f"- {name}: {value or 'not recorded'}" for name, value in rows)
    if facts.run_id and facts.journal_head:
        yield ""
        yield f"Check it: `chargehand audit verify` recomputes every row of {code(facts.run_id)} up to this head."


def _tokens(facts: RunFacts) -> str | None:
    counts = (
        (facts.input_tokens, "in"),
        (facts.output_tokens, "out"),
        (facts.cache_read_tokens, "read from the cache"),
    )
    return ", ".join(f"{count:,} {name}" for count, name in counts if count is not None) or None
