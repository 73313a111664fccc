"""The pages of the reference, made from the code: settings, commands, facts, errors, HTTP and Python.

Nothing of it is kept in the repository: `make docs` writes it beside the pages that people write.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import chargehand
from chargehand.memory.embedder_settings import EmbedderSettings
from chargehand.orchestrator import cli, errors, facts
from chargehand.orchestrator.api.app import create_app
from chargehand.orchestrator.cli import exits
from chargehand.orchestrator.cli.lazy import load
from chargehand.orchestrator.settings import Endpoint, Settings, default_home

_MADE = "*Made from the code by `make docs`.*"


def pages() -> dict[str, str]:
    """Markdown by file name."""
    return {
        "settings.md": settings(),
        "commands.md": commands(),
        "facts.md": the_facts(),
        "errors.md": the_errors(),
        "http.md": http(),
        "python.md": python(),
    }


# --- settings ---------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Every variable, its default and what it is for."""
    lines = [
        "# Settings",
        "",
        _MADE,
        "",
        "Variables of a process; what is left out has its default. JSON where said.",
        "",
    ]
    for model in (Settings, EmbedderSettings):
        lines += [f"## {_title(model)}", "", "| Variable | Default | |", "|---|---|---|"]
        prefix = model.model_config.get("env_prefix", "")
        for name, (default, said) in fields_of(model).items():
            lines.append(f"| `{(prefix + name).upper()}` | {default} | {_cell(said)} |")
        lines.append("")
    lines += ["## An endpoint", "", f"{_cell(inspect.getdoc(Endpoint) or '')} A value of `CHARGEHAND_ENDPOINTS`.", ""]
    lines += ["| Field | Default | |", "|---|---|---|"]
    lines += [f"| `{name}` | {default} | {_cell(said)} |" for name, (default, said) in fields_of(Endpoint).items()]
    return "\n".join(lines) + "\n"


def fields_of(model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Default and docstring of each field."""
    said = docstrings_of(model)
    return {name: (_default(field), said.get(name, "")) for name, field in model.model_fields.items()}


def docstrings_of(model: type) -> dict[str, str]:
    """The string under each attribute of a class and of its bases, nearest first."""
    found: dict[str, str] = {}
    for cls in model.__mro__:
        if not cls.__module__.startswith("chargehand"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found.setdefault(node.target.id, inspect.cleandoc(text))
    return found


def _default(field: Any) -> str:
    if field.default_factory is default_home:
        return "`~/.local/share/chargehand`"
    value = field.default
    if value is PydanticUndefined:
        return "*required*" if field.default_factory is None else f"`{field.default_factory()}`"
    if value in (None, "", (), {}) or str(value) in {"", "**********"}:
        return ""
    return f"`{value}`"


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    lines = ["# Every command", "", _MADE, "", "What all have in common is in [Commands](../commands.md).", ""]
    for path, command in every_command():
        lines += [f"## chargehand {' '.join(path)}", "", _prose(command.help or ""), ""]
        with command.make_context("chargehand " + " ".join(path), [], resilient_parsing=True) as context:
            usage = " ".join(command.collect_usage_pieces(context))
            lines += ["```", f"chargehand {' '.join(path)} {usage}".rstrip(), "```", ""]
            rows = [_option(parameter, context) for parameter in command.get_params(context)]
        if any(rows):
            lines += ["| | |", "|---|---|", *(row for row in rows if row), ""]
    lines += [
        "## Exit codes",
        "",
        "| | |",
        "|---|---|",
        *(f"| {code} | {text} |" for code, text in exits.MEANINGS.items()),
    ]
    return "\n".join(lines) + "\n"


def every_command() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and command, a group's commands instead of the group."""
    for name in cli._Chargehand.entries:
        command = load(cli._Chargehand.entries, name)
        yield from _within((name,), command)


def _within(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    children: Mapping[str, Any] = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from _within((*path, name), child)


def _option(parameter: Any, context: Any) -> str:
    if getattr(parameter, "hidden", False):
        return ""
    record = parameter.get_help_record(context)
    if record is None:
        return f"| `{parameter.make_metavar(context)}` | {_cell(getattr(parameter, 'help', '') or '')} |"
    return f"| `{record[0].replace('|', chr(92) + '|')}` | {_cell(record[1])} |"


# --- facts and errors -------------------------------------------------------------------------------------------------


def the_facts() -> str:
    """Every kind of row in the journal, with the fields of its body."""
    lines = ["# Facts", "", _MADE, "", "What a journal's rows say. Version of the format: "]
    lines[-1] += (
        f"{facts.SCHEMA_VERSION}. What each does to a run or step: [Architecture](../architecture.md#the-facts)."
    )
    for stream, union in (("run", facts.RunFact), ("step", facts.StepFact)):
        lines += ["", f"## Of a {stream}", ""]
        for fact in get_args(get_args(union)[0]):
            kind = fact.model_fields["kind"].default
            lines += [f"### {kind}", "", _prose(inspect.getdoc(fact) or ""), ""]
            rows = [(name, rest) for name, rest in fields_of(fact).items() if name != "kind"]
            if rows:
                lines += ["| Field | Type | Default | |", "|---|---|---|---|"]
            for name, (default, said) in rows:
                kind_of = _cell(_type(fact.model_fields[name].annotation))
                lines.append(f"| `{name}` | `{kind_of}` | {default.replace('*required*', '')} | {_cell(said)} |")
            lines.append("")
    return "\n".join(lines) + "\n"


def the_errors() -> str:
    """The tree of errors, and what each one means."""
    tree, _, rest = (inspect.getdoc(errors) or "").partition("\n\n")[2].partition("\n\n")
    lines = ["# Errors", "", _MADE, "", "```", textwrap.dedent(tree), "```", "", _prose(rest), ""]
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.ChargehandError) and value.__module__ == errors.__name__:
            lines += [f"## {name}", "", _prose(inspect.getdoc(value) or ""), ""]
            if name in chargehand.__all__:
                lines += [f"`from chargehand import {name}`", ""]
    return "\n".join(lines) + "\n"


# --- HTTP -------------------------------------------------------------------------------------------------------------


def http() -> str:
    """Every operation of the API, from its own OpenAPI."""
    lines = ["# Every request", "", _MADE, ""]
    lines += ["How they are asked is in [HTTP API](../http-api.md); `/v1/openapi.json` has every field.", ""]
    lines += ["| | Path | | Answers |", "|---|---|---|---|"]
    # Nobody connects: only the routes are looked at.
    nowhere = Settings(database_url="postgresql://localhost:1/", redis_url="redis://localhost:1/0")
    for path, operations in create_app(nowhere).openapi()["paths"].items():
        for method, operation in operations.items():
            said = (operation.get("description") or operation.get("summary", "")).split("\n\n")[0]
            lines.append(f"| {method.upper()} | `{path}` | {_cell(said)} | {', '.join(operation['responses'])} |")
    return "\n".join(lines) + "\n"


# --- Python -----------------------------------------------------------------------------------------------------------


def python() -> str:
    """Every public name of the package with its signature and docstring, and the public methods of classes."""
    lines = ["# Python", "", _MADE, "", "Everything here is imported from `chargehand`.", ""]
    for name in sorted(chargehand.__all__, key=str.lower):
        value = getattr(chargehand, name)
        if inspect.isclass(value) and issubclass(value, errors.ChargehandError):
            continue
        lines += [f"## {name}", "", *_described(name, value)]
        if inspect.isclass(value) and value is not Settings:
            for method, member in _methods(value):
                lines += [f"### {name}.{method}", "", *_described(method, member)]
    lines += ["## Errors", "", "See [Errors](errors.md); the settings' fields are in [Settings](settings.md).", ""]
    return "\n".join(lines) + "\n"


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, those of our own bases too."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if base.__module__.startswith("chargehand"):
            for name, member in vars(base).items():
                is_callable = inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
                if not name.startswith("_") and is_callable and name not in seen:
                    seen.add(name)
                    yield name, member


def _described(name: str, value: Any) -> list[str]:
    if isinstance(value, property):
        return [_prose(inspect.getdoc(value) or ""), ""]
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    try:
        signature = str(inspect.signature(function))
    except (TypeError, ValueError):
        signature = "(…)"
    parts = _split(re.sub(r"^\((?:self|cls)(?:, )?", "(", _shortened(signature)))
    if value is Settings:
        return [_prose(inspect.getdoc(value) or ""), ""]
    return ["```python", f"{name}{parts}", "```", "", _prose(inspect.getdoc(function) or ""), ""]


def _shortened(signature: str) -> str:
    """Without the modules that names come from, and without the addresses of default objects."""
    signature = re.sub(r"<(?:function|class|object|factory|bound)[^>]*>", "…", signature.replace("<factory>", "…"))
    signature = re.sub(r"~(?=[A-Z])", "", signature)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", signature)


def _split(signature: str) -> str:
    """A long signature a parameter a line."""
    if len(signature) < 100:
        return signature
    inside, _, given = signature[1:].rpartition(")")
    parts, depth, start = [], 0, 0
    for position, character in enumerate(inside):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(inside[start:position].strip())
            start = position + 1
    parts.append(inside[start:].strip())
    return "(\n" + "".join(f"    {part},\n" for part in parts) + ")" + given


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _title(model: type) -> str:
    return {"Settings": "Of every process", "EmbedderSettings": "The embedding model"}[model.__name__]


def _type(annotation: object) -> str:
    return _shortened(inspect.formatannotation(annotation))


def _cell(text: str) -> str:
    """Text for one cell of a table."""
    return _prose(" ".join(text.split())).replace("|", "\\|")


def _prose(text: str) -> str:
    """A docstring as Markdown: code in two backticks is code in one, and names in angles are no tags."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"<(?=[A-Za-z/])", "&lt;", text) if "`" not in text else text
