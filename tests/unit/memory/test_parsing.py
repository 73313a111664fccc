"""Outlines of source files, told by a child process."""

import importlib.util
import sys
import textwrap
from pathlib import Path

import pytest

from chargehand.memory import parsing, syntax
from chargehand.memory.parsing import Parser, language_of
from chargehand.memory.passages import MAX_LINES, cut

NEEDS_GRAMMARS = pytest.mark.skipif(importlib.util.find_spec(syntax.PACK) is None, reason="no grammars installed")
CALLS = "    call()\n" * 14


def first_lines(path: str, text: str) -> list[str]:
    lines = text.split("\n")
    with Parser() as parser:
        outline = parser.outline(path, text)
    assert outline is not None
    return [passage.text.split("\n")[0].strip() for passage in cut(path, lines, outline)]


def test_python_is_cut_at_definitions_and_not_at_what_looks_like_one() -> None:
    text = 'HELP = """\n' + "def not_a_function():\n" * 6 + '"""\n\n\n'
    code = f"{text}@cached\ndef first():\n{CALLS}\n\ndef second():\n{CALLS}\nmain()\n"
    assert first_lines("a.py", code) == ['HELP = """', "@cached", "def second():", "main()"]


def test_methods_of_a_long_class_are_passages() -> None:
    method = textwrap.indent(f"def accept(self):\n{CALLS}", "    ")
    code = "class Desk:\n" + "\n".join(method.replace("accept", name) for name in ("accept", "weigh", "send"))
    assert first_lines("a.py", code) == ["class Desk:", "def weigh(self):", "def send(self):"]


def test_a_long_function_is_cut_between_its_outermost_statements() -> None:
    loop = "    for x in xs:\n" + "        call(x)\n" * 25
    lines = f"def long():\n{loop}{loop}".split("\n")
    with Parser() as parser:
        outline = parser.outline("a.py", "\n".join(lines))
    passages = cut("a.py", lines, outline)
    assert [passage.text.split("\n")[0].strip() for passage in passages] == ["def long():", "for x in xs:"]
    assert all(passage.line_end - passage.line_start < MAX_LINES for passage in passages)


@NEEDS_GRAMMARS
@pytest.mark.parametrize(
    ("path", "code", "expected"),
    [
        (
            "a.js",
            "const text = `\n"
            + "function not(a) {\n" * 6
            + "`;\n\n/** Doc. */\nexport const f = async (a) => {\n"
            + CALLS
            + "};\n",
            ["const text = `", "/** Doc. */"],
        ),
        (
            "a.ts",
            "export class Desk {\n  accept() {\n" + CALLS + "  }\n\n  send() {\n" + CALLS + "  }\n}\n",
            ["export class Desk {", "send() {"],
        ),
        ("a.go", "func f() {\n" + CALLS + "}\n\nfunc g() {\n" + CALLS + "}\n", ["func f() {", "func g() {"]),
        (
            "a.rs",
            "impl Desk {\n    fn accept(&self) {\n" + CALLS + "    }\n\n    fn send(&self) {\n" + CALLS + "    }\n}\n",
            ["impl Desk {", "fn send(&self) {"],
        ),
        (
            "A.java",
            "class Desk {\n  void accept() {\n" + CALLS + "  }\n\n  /* why */\n  void send() {\n" + CALLS + "  }\n}\n",
            ["class Desk {", "/* why */"],
        ),
    ],
)
def test_other_languages_are_cut_by_their_grammar(path: str, code: str, expected: list[str]) -> None:
    code = code.replace("    call()\n", "    call();\n")
    assert first_lines(path, code) == expected


def test_without_grammars_python_alone_has_a_syntax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syntax, "PACK", "no_such_package")
    assert syntax.outline("go", "func f() {}\n") is None
    assert syntax.outline("python", "def f(): ...\n") is not None
    assert syntax.outline("python", "def f(:\n") is None


def test_lines_that_python_counts_otherwise_are_left_to_their_look() -> None:
    assert syntax.python_outline("a = 1\rdef f():\n    pass\n") is None


def test_names_tell_the_language() -> None:
    assert (language_of("x/a.PY"), language_of("a.tsx"), language_of("Makefile"), language_of("a.md")) == (
        "python",
        "tsx",
        None,
        None,
    )


def test_a_file_that_takes_too_long_is_given_up_and_the_next_one_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "slow_syntax.py").write_text(
        "from chargehand.memory import syntax\n"
        "def outline(language, text):\n"
        "    while 'trap' in text: pass\n"
        "    return {'definitions': [], 'statements': []}\n"
        "syntax.SECONDS_A_FILE, syntax.outline = 1, outline\n"
        "syntax.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(parsing, "PROGRAM", "slow_syntax")
    with Parser() as parser:
        assert parser.outline("a.py", "trap") is None
        assert parser.outline("b.py", "harmless") is not None


def test_a_child_that_cannot_start_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Parser() as parser:
        assert [parser.outline("a.py", "x = 1\n") for _ in range(parsing.MAX_DEATHS + 1)] == [None] * 6


def test_deep_nesting_is_no_outline_and_no_end_of_the_child() -> None:
    with Parser() as parser:
        parser.outline("a.py", "x = " + "(" * 100_000 + ")" * 100_000)
        assert parser.outline("b.py", "def f(): ...\n") is not None
