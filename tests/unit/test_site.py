"""The site of the documents: its reference says everything, its pages are there, what they show can be asked for."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

import chargehand
from chargehand.memory.embedder_settings import EmbedderSettings
from chargehand.orchestrator.cli import _Chargehand
from chargehand.orchestrator.cli.lazy import load
from chargehand.orchestrator.plan_files import parse_plan
from chargehand.orchestrator.settings import Endpoint, Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "deploy/README.md", *sorted(ROOT.glob("docs/*.md"))]
SITE = (ROOT / "mkdocs.yml").read_text()

markdown = MarkdownIt().enable("table")


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("documents_reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def pages(reference):
    return reference.pages()


def blocks(document, *kinds):
    """Code of the fences of these kinds and, for "", of indented blocks, with the line of each."""
    for token in markdown.parse(document.read_text()):
        if (token.type == "fence" and token.info in kinds) or (token.type == "code_block" and "" in kinds):
            yield token.map[0] + 1, token.content


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Settings, EmbedderSettings, Endpoint])
def test_every_setting_says_what_it_is_for(reference, model):
    assert [name for name, (_, said) in reference.fields_of(model).items() if not said] == []


def test_the_reference_has_every_setting(pages):
    listed = re.findall(r"^\| `CHARGEHAND_([A-Z_]+)` \|", pages["settings.md"], re.MULTILINE)
    assert [name.lower() for name in listed] == [*Settings.model_fields, *EmbedderSettings.model_fields]


def test_the_reference_has_every_command_with_its_options(pages):
    listed = re.findall(r"^## chargehand (\w+)", pages["commands.md"], re.MULTILINE)
    assert list(dict.fromkeys(listed)) == list(_Chargehand.entries)
    of_run = pages["commands.md"].split("## chargehand run\n")[1].split("\n## ")[0]
    for option in load(_Chargehand.entries, "run").params:
        if option.param_type_name == "option":
            assert option.opts[0] in of_run


def test_the_reference_has_every_public_name_with_a_docstring(pages):
    page = pages["python.md"] + pages["errors.md"]
    assert [name for name in chargehand.__all__ if f"\n## {name}\n" not in page] == []
    bare = re.findall(r"^#+ (\S+)\n\n(?:```python\n[^`]*```\n\n)?\n?(?=#)", pages["python.md"], re.MULTILINE)
    assert bare == []


def test_the_reference_has_every_fact_and_every_request(pages):
    kinds = re.findall(r"^\| (?:run|step) \| `([a-z.]+)` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert [kind for kind in kinds if f"\n### {kind}\n" not in pages["facts.md"]] == []
    for path in ("/v1/runs", "/v1/runs/{run_id}/events", "/v1/escalations", "/healthz"):
        assert f"`{path}`" in pages["http.md"]


# --- the site ---------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation_and_nothing_else_is(reference, pages):
    navigation = re.findall(r"^ *- ([\w/.-]+\.md)$", SITE, re.MULTILINE)
    written = {str(page.relative_to(ROOT)) for page in PAGES}
    assert written | {f"docs/reference/{name}" for name in pages} | {"CHANGELOG.md", "examples/README.md"} == set(
        navigation
    )


def test_the_site_loads_nothing_from_elsewhere():
    settings = yaml.safe_load(re.sub(r"!!python\S+ \{[^\n]*", "''", SITE))
    assert settings["theme"]["font"] is False
    assert "extra_javascript" not in settings
    assert "extra_css" not in settings
    assert settings["validation"].items() >= {"anchors": "warn", "unrecognized_links": "warn"}.items()


# --- what the pages show ----------------------------------------------------------------------------------------------


def commands_of(document):
    """Command lines of `chargehand` in the code of a page, without what a shell would do with them."""
    for line, text in blocks(document, "", "sh", "bash"):
        for number, command in enumerate(text.splitlines(), line):
            for found in re.findall(r"(?:^|[\s(/])chargehand ([^#]+)", command):
                # What follows after a gap is a remark or a drawing.
                asked = re.split(r" {3,}| && | \| | 2?> | &$" + (r"|\)\"?$" if "$(" in command else ""), found)[0]
                if not re.search(r"[…\[|]", asked):
                    yield f"{document.name}:{number}", asked


@pytest.mark.parametrize("document", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_a_page_is_one_that_the_command_takes(document):
    refused = []
    for place, line in commands_of(document):
        words = shlex.split(line)
        if not words or words[0] not in _Chargehand.entries:
            continue
        command, rest = load(_Chargehand.entries, words[0]), words[1:]
        try:
            while rest and rest[0] in getattr(command, "commands", {}):
                command, rest = command.commands[rest[0]], rest[1:]
            if rest not in (["--help"], ["-h"]):
                command.make_context(" ".join(words), list(rest))
        except Exception as error:  # noqa: BLE001 - whatever the parser has against it
            refused.append(f"{place}: chargehand {line}: {error}")
    assert refused == []


@pytest.mark.parametrize("document", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_of_a_page_parses_and_finds_what_it_imports(document):
    own = set(re.findall(r"<!-- file (\w+)\.py -->", document.read_text())) | {"models", "words"}
    for line, text in blocks(document, "python"):
        # A `return` stands for the function that the reader has.
        body = "\n".join("    " + part for part in text.splitlines())
        for node in ast.walk(ast.parse(f"async def shown():\n{body}".replace("…", "..."))):
            if isinstance(node, ast.ImportFrom) and node.module not in own:
                module = importlib.import_module(node.module or "")
                names = [one.name for one in node.names if not hasattr(module, one.name)]
                assert [one for one in names if not importlib.util.find_spec(f"{node.module}.{one}")] == [], line


def test_every_plan_of_the_page_of_plans_is_an_example_that_is_run():
    """`tests/system/test_example_plans.py` runs them; a page that shows another one would be believed all the same."""
    shown = [text for _, text in blocks(ROOT / "docs/plans.md", "yaml")]
    examples = [file.read_text() for file in (ROOT / "examples/plans").glob("*.yaml")]
    assert len(shown) > 10
    assert [text for text in shown if not any(text in example for example in examples)] == []


@pytest.mark.parametrize("document", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_data_of_a_page_can_be_read(document):
    """Steps that are shown without their plan are steps all the same."""
    for _, text in blocks(document, "yaml"):
        if text.startswith("- key:"):
            parse_plan("steps:\n" + text)
        elif text.startswith("steps:"):
            parse_plan(text)
        else:
            assert isinstance(yaml.safe_load(text), dict)
    for _, text in blocks(document, "json"):
        json.loads(text)
    for _, text in blocks(document, "toml"):
        tomllib.loads(text)
