"""The documents say what is there: modules, facts, commands, settings, exit codes, tests, targets, links."""

import ast
import importlib
import re
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from markdown_it import MarkdownIt

from chargehand.orchestrator.cli import _Chargehand, exits
from chargehand.orchestrator.facts import RunFact, StepFact
from chargehand.orchestrator.settings import Settings

ROOT = Path(__file__).parents[2]
ROOMS = ("memory", "orchestrator", "workers", "migrations")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "deploy/*.md", "examples/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
# Read from the environment elsewhere than in `Settings`.
OTHER_VARIABLES = re.compile(
    r"CHARGEHAND_(MODEL_(PRICES|LIMITS|PROFILE)|OFFLINE_DELAY_SECONDS|DEBUG|EMBEDDER(_[A-Z_]+)?)\Z"
)

markdown = MarkdownIt().enable("table")


def name_of(document):
    return str(document.relative_to(ROOT))


def all_text():
    return "\n".join(document.read_text() for document in DOCUMENTS)


def modules():
    """Every file with code in it; an `__init__.py` that only has a docstring is none."""
    files = [ROOT / "chargehand" / "__init__.py", *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
    for file in files:
        body = ast.parse(file.read_text()).body
        if file.name != "__init__.py" or any(not isinstance(node, ast.Expr) for node in body):
            yield str(file.relative_to(ROOT))


def test_the_architecture_lists_every_module_once_with_one_line():
    listed = re.findall(r"^- `([\w/]+\.py)`: \S", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(modules())


def test_the_architecture_lists_every_fact_in_its_stream():
    rows = re.findall(r"^\| (run|step) \| `([a-z.]+)` \| \S", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    kinds = [
        (stream, fact.model_fields["kind"].default)
        for stream, facts in (("run", RunFact), ("step", StepFact))
        for fact in get_args(get_args(facts)[0])
    ]
    assert rows == kinds


def test_every_make_target_is_documented():
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [target for target in targets if not re.search(rf"make {target}\b", all_text())] == []


def test_every_command_is_documented_and_every_documented_command_is_there():
    code = "\n".join(code_of(document) for document in DOCUMENTS)
    mentioned = set(re.findall(r"(?<![\w./-])(?<!from )chargehand ([a-z]+)\b", code))
    assert mentioned - _Chargehand.entries.keys() == set()
    assert {
        command for command in _Chargehand.entries if not re.search(rf"(^|chargehand ){command}\b", code, re.M)
    } == set()


def code_of(document):
    """What stands in code spans, fences and indented blocks, a line each."""
    blocks = markdown.parse(document.read_text())
    spans = [span for block in blocks for span in block.children or () if span.type == "code_inline"]
    return "\n".join(
        token.content for token in [*blocks, *spans] if token.type in {"fence", "code_block", "code_inline"}
    )


def test_every_variable_in_the_documents_is_a_setting():
    known = {f"CHARGEHAND_{field.upper()}" for field in Settings.model_fields}
    mentioned = set(re.findall(r"\bCHARGEHAND_[A-Z_]*[A-Z]\b", all_text()))
    assert {name for name in mentioned - known if not OTHER_VARIABLES.match(name)} == set()


def test_the_documented_exit_codes_are_those_of_the_command():
    codes = re.findall(r"^\| (\d+) \| \S", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert {int(code) for code in codes} == {*exits.MEANINGS, exits.PIPE_CLOSED}


def test_every_test_that_proves_a_claim_is_there():
    missing = []
    for file, name in re.findall(r"`?(tests/[\w/]+\.py)(?:::(\w+))?", all_text()):
        if not (ROOT / file).is_file() or (name and f"def {name}(" not in (ROOT / file).read_text()):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_the_python_of_the_readme_parses_and_finds_what_it_imports():
    snippets = [
        token.content
        for token in markdown.parse((ROOT / "README.md").read_text())
        if token.type == "fence" and token.info == "python"
    ]
    assert snippets
    for node in (node for snippet in snippets for node in ast.walk(ast.parse(snippet))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(document):
    broken = []
    for target in links_of(document):
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors_of(file)):
            broken.append(target)
    assert broken == []


def links_of(document):
    for block in markdown.parse(document.read_text()):
        for token in block.children or ():
            target = str(token.attrGet("href") or token.attrGet("src") or "")
            if target and not re.match(r"[a-z]+:", target):
                yield target


def anchors_of(document):
    """Headings as code forges turn them into anchors."""
    tokens = markdown.parse(document.read_text())
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
