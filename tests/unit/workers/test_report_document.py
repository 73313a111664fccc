"""The report says what happened, short at the top, and no text of a repository can change its shape."""

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from chargehand.workers.findings import (
    Answer,
    CheckedAnswer,
    Finding,
    FixAttempt,
    HumanTask,
    Quote,
    Severity,
    TestDelta,
    TestRun,
    ToolHit,
    Verdict,
    VerdictKind,
)
from chargehand.workers.report.contents import (
    UNDETECTABLE,
    InventorySummary,
    PatchFacts,
    ReportInput,
    RunFacts,
    TaintedInstruction,
)
from chargehand.workers.report.document import compose_report

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
hostile = st.one_of(
    st.text(min_size=1),
    st.lists(
        st.sampled_from(
            [
                "`",
                "```",
                "|",
                "\n",
                "\n\n",
                "# x",
                "[a](http://b.c)",
                "![a](b)",
                "<b>",
                "<!--",
                "| --- |",
                "---",
                "@",
                "\\",
            ]
        ),
        min_size=1,
    ).map("".join),
)


def finding(finding_id: str = "f1", **more: object) -> Finding:
    values: dict[str, object] = {
        "finding_id": finding_id,
        "category": "sql-injection",
        "title": "SQL built from strings",
        "severity": "high",
        "cwe": 89,
        "path": "store.py",
        "line": 38,
        "end_line": 38,
        "snippet": "query = f'… {sender}'",
        "hits": (ToolHit(tool="ruff", rule="S608", message="m", confidence="high"),),
    }
    return Finding.model_validate(values | more)


def verdict(
    kind: VerdictKind = "confirmed", finding_id: str = "f1", reason: str = "Because.", advice: str = ""
) -> Verdict:
    return Verdict(finding_id=finding_id, verdict=kind, reason=reason, advice=advice)


def report(**more: object) -> ReportInput:
    return ReportInput(**({"goal": "Audit this", "repository": "desk", "commit": "4f1d0a9be1c24c77"} | more))  # type: ignore[arg-type]


GOLDEN = """\
# Audit of desk

> - 1 finding confirmed (1 high).
> - 1 fix kept (no test broke), 0 reverted, 0 not proven.
> - Nothing waits for you.

- Findings: **1** confirmed · **0** dismissed · **0** not triaged · **0** for a person
- Fixes: **1** kept · **0** reverted · **0** not proven
- Goal: Audit this
- Audited: desk at commit `4f1d0a9be1c2`, 2 files, 1,040 lines (Python 1,040)
- Patch: `changes.patch`, 1 file changed, `git apply --check` accepts it, sha256 `abcdabcdabcdabcd`
- **No language model was used**: every decision in this report was made by rules.

## Findings

| # | Severity | What | CWE | Where | Tools | Action |
| --- | --- | --- | --- | --- | --- | --- |
| 1 | high | SQL built from strings | 89 | `store.py:38` | ruff | Pass `sender` as a parameter. |

## Confirmed

### 1. SQL built from strings in `store.py:38`

high · [CWE-89](https://cwe.mitre.org/data/definitions/89.html) · ruff S608 · reachable from `GET /parcels` · id `f1`

`sender` comes from outside.

```python
query = f'… {sender}'
```

**Change:** Pass `sender` as a parameter.

## Fixes

Tests with `python -m pytest`: 1 failed before → 1 passed after.

- turned green: `t.py::test_paid`

**Kept**

- `F632` in `billing.py` (commit `a1b2`): Use == here. `t.py::test_paid` turned green

## Not covered

The analysers cannot see these classes at all. That none is listed above does not mean that there is none:

- Path traversal (CWE-22), but for archives
- Cross-site scripting (CWE-79)
- Open redirect (CWE-601)
- LDAP injection (CWE-90)
- Trust boundary violation (CWE-501)
- Authorisation and business logic

## This run

- No language model was used.
- Run: `r1`
- Models: `rules`
- Model calls: 3
- Tokens: 1,200 in, 80 out
- Cost: $0
- Saved by the prompt cache: not recorded
- Duration: 2.5 s
- Journal head: `beef`

Check it: `chargehand audit verify` recomputes every row of `r1` up to this head.
"""


def test_small_report_reads_exactly_like_this() -> None:
    command = ("python", "-m", "pytest")
    composed = compose_report(
        report(
            inventory=InventorySummary(files=2, lines=1040, languages=(("Python", 1040),)),
            findings=(finding(reachable_from=("GET /parcels",)),),
            verdicts=(verdict(reason="`sender` comes from outside.", advice="Pass `sender` as a parameter."),),
            fixes=(
                FixAttempt(
                    rule="F632",
                    path="billing.py",
                    description="Use == here",
                    commit="a1b2",
                    status="kept",
                    evidence="`t.py::test_paid` turned green",
                ),
            ),
            tests_before=TestRun(command=command, runnable=True, outcomes={"t.py::test_paid": "failed"}),
            tests_after=TestRun(command=command, runnable=True, outcomes={"t.py::test_paid": "passed"}),
            delta=TestDelta(turned_green=("t.py::test_paid",)),
            patch=PatchFacts(sha256="abcd" * 16, applies=True, files_changed=1),
            facts=RunFacts(
                run_id="r1",
                language_model_used=False,
                models=("rules",),
                calls=3,
                input_tokens=1200,
                output_tokens=80,
                cost_microusd=0,
                duration_seconds=2.5,
                journal_head="beef",
            ),
        )
    )
    assert composed == GOLDEN


def test_report_of_nothing_is_honest_about_it() -> None:
    composed = compose_report(report(gaps=("`triage-1` failed",)))
    assert "No finding was confirmed." in composed
    assert "tests were not run" in composed
    assert "**Failed:** `triage-1` failed" in composed
    assert "Cost: not recorded" in composed
    assert all(name in composed for name in UNDETECTABLE)


def test_finding_without_a_verdict_is_shown_as_not_triaged() -> None:
    assert "not triaged: look at it yourself" in compose_report(report(findings=(finding(),)))


def test_dismissal_is_listed_with_its_reason_and_not_in_the_table() -> None:
    composed = compose_report(
        report(
            findings=(finding(suppressed_by="# noqa: S608"),),
            verdicts=(verdict("dismissed", reason="Allow-list SORTABLE."),),
        )
    )
    assert "- `store.py:38` SQL built from strings: Allow-list SORTABLE." in composed
    assert "| 1 |" not in composed
    assert "- `store.py:38` `# noqa: S608` (SQL built from strings): dismissed" in composed


def test_secret_is_masked_where_it_is_shown() -> None:
    snippet = (
        'SECRET_KEY = "c8f1d2a97be04e6f9d35a1706b8ec24f"\nexport TOKEN=ghp_16C7e42F292c6912E7710c838347\nDAYS = 14'
    )
    leaked = finding(category="hardcoded-secret", snippet=snippet)
    composed = compose_report(report(findings=(leaked,), verdicts=(verdict(),)))
    assert 'SECRET_KEY = "c8f1…"\nexport TOKEN=' in composed
    assert "d2a97be04e6f" not in composed
    assert "16C7e42F292c" not in composed
    assert "DAYS = 14" in composed


def test_line_of_minified_code_is_cut() -> None:
    composed = compose_report(report(findings=(finding(snippet="x" * 1_000_000),), verdicts=(verdict(),)))
    assert f"\n{'x' * 240}…\n" in composed
    assert len(composed) < 5_000


def test_unrunnable_tests_are_named_with_their_reason() -> None:
    before = TestRun(command=("pytest",), runnable=False, reason="missing flask")
    assert "**Tests unrunnable** (missing flask)" in compose_report(report(tests_before=before))


def test_patch_that_brings_a_finding_says_so_at_the_top() -> None:
    patch = PatchFacts(applies=True, reproduces=False, findings_new=("weak-hash a.py:3",))
    composed = compose_report(report(patch=patch))
    assert "**it brings 1 new finding**: `weak-hash a.py:3`" in composed
    assert "**applied, it does not give the files that were tested**" in composed


def test_more_careful_of_two_verdicts_counts() -> None:
    both = (verdict("confirmed"), verdict("dismissed"))
    assert "**1** confirmed" in compose_report(report(findings=(finding(),), verdicts=both))


def test_reverted_fix_shows_its_evidence() -> None:
    fix = FixAttempt(
        rule="F401", path="app.py", description="unused", commit="c", status="reverted", evidence="`t::told` broke"
    )
    assert "- `F401` in `app.py`: unused. `t::told` broke" in compose_report(report(fixes=(fix,)))


def test_refuted_quote_is_marked() -> None:
    answer = Answer(question="Where?", found=True, answer="Here.", quotes=(Quote(path="a.py", line=3, text="x = 1"),))
    checked = CheckedAnswer(answer=answer, quotes_verified=0, quotes_refuted=("a.py:3",))
    composed = compose_report(report(answers=(checked,)))
    assert "`a.py:3` **is not what the file says**" in composed
    assert "0 of 1 quote found in the file" in composed


def test_three_lines_of_the_agent_replace_the_counted_ones() -> None:
    composed = compose_report(report(headline="Two doors stand open", verdict_lines=("One.", "Two.", "Three.")))
    assert composed.startswith("# Two doors stand open\n\n> - One.\n> - Two.\n> - Three.\n")


def test_table_is_cut_and_says_how_much_is_missing() -> None:
    findings = tuple(finding(f"f{number}", line=number) for number in range(1, 101))
    composed = compose_report(report(findings=findings))
    assert "… and 40 more, of lower rank, in `findings.sarif`." in composed


def shape_of(markdown: str) -> tuple[list[str], int, set[str]]:
    """Headings, rows of tables, and what kinds of inline markup there are."""
    tokens = MARKDOWN.parse(markdown)
    kinds = {child.type for token in tokens for child in token.children or []}
    kinds |= {token.type for token in tokens if token.type.startswith("html")}
    rows = sum(token.type == "tr_open" for token in tokens)
    return [token.tag for token in tokens if token.type == "heading_open"], rows, kinds


def all_of(text: str, severity: Severity = "high") -> ReportInput:
    """A report in which every text is this one."""
    named = {"title": text, "path": text, "severity": severity, "suppressed_by": text, "reachable_from": (text,)}
    hits = (ToolHit(tool=text, rule=text, message=text, confidence="low"),)
    kinds: tuple[VerdictKind, ...] = ("confirmed", "dismissed", "needs_person")
    run = TestRun(command=(text,), runnable=True, outcomes={text: text})
    return report(
        goal=text,
        repository=text,
        commit=text,
        uncommitted=(text,),
        inventory=InventorySummary(files=1, lines=1, languages=((text, 1),)),
        findings=tuple(finding(kind, snippet=text, hits=hits, **named) for kind in (*kinds, "untriaged")),
        verdicts=tuple(verdict(kind, kind, reason=text, advice=text) for kind in kinds),
        answers=(
            CheckedAnswer(
                answer=Answer(question=text, found=True, answer=text, quotes=(Quote(path=text, line=1, text=text),)),
                quotes_verified=1,
            ),
        ),
        fixes=(
            FixAttempt(rule=text, path=text, description=text, commit=text, status="kept", evidence=text),
            FixAttempt(rule=text, path=text, description=text, commit=text, status="reverted", evidence=text),
        ),
        tests_before=run,
        tests_after=TestRun(command=(text,), runnable=False, reason=text),
        delta=TestDelta(broke=(text,), turned_green=(text,)),
        human_tasks=(HumanTask(subject=text, evidence=text),),
        not_covered=(text,),
        gaps=(text,),
        instructions=(TaintedInstruction(path=text, line=1, text=text),),
        headline=text,
        verdict_lines=(text, text, text),
        notes=f"n {text}",
        patch=PatchFacts(
            name=text, sha256=text, applies=False, problem=text, findings_gone=(text,), findings_new=(text,)
        ),
        facts=RunFacts(run_id=text, models=(text,), journal_head=text),
    )


@given(hostile)
def test_no_text_changes_the_shape_of_the_report(text: str) -> None:
    headings, rows, kinds = shape_of(compose_report(all_of(text)))
    expected_headings, expected_rows, expected_kinds = shape_of(compose_report(all_of("plain")))
    assert headings == expected_headings
    assert rows == expected_rows
    assert kinds <= expected_kinds | {"text_special", "hardbreak", "softbreak"}
    assert not kinds & {"image", "html_inline", "html_block"}


@given(hostile)
def test_only_links_are_those_to_the_weakness_list(text: str) -> None:
    tokens = MARKDOWN.parse(compose_report(all_of(text)))
    children = [child for token in tokens for child in token.children or []]
    targets = {str(child.attrs["href"]) for child in children if child.type == "link_open"}
    assert targets == {"https://cwe.mitre.org/data/definitions/89.html"}


def test_tasks_for_a_person_are_not_counted_as_findings() -> None:
    text = compose_report(report(human_tasks=(HumanTask(subject="t.py::test_net fails", evidence="refused"),)))
    assert "**0** not triaged · **0** for a person" in text
    assert "**0** not proven · **1** handed to a person" in text


def test_report_without_an_analyser_says_nothing_about_problems() -> None:
    text = compose_report(report(analysed=False))
    assert "No analyser ran, so this report says nothing about problems in the code." in text
    assert "Nothing was confirmed" not in text
    assert "LDAP injection" not in text


def test_report_with_a_failing_test_says_what_the_tests_could_not_reach() -> None:
    run = TestRun(command=("python", "-m", "pytest"), runnable=True, outcomes={"t.py::test_net": "failed"})
    failing = report(tests_before=run, tests_after=run, delta=TestDelta(still_failing=("t.py::test_net",)))
    assert "They ran without a network" in compose_report(failing)
    green = report(tests_before=run, tests_after=run, delta=TestDelta(turned_green=("t.py::test_net",)))
    assert "They ran without a network" not in compose_report(green)
