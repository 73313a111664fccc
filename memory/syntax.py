"""`python -m chargehand.memory.syntax`: outlines of source files, for a parent that cannot afford to parse.

One `ast.parse` of 4 MB holds the interpreter for 14 s: in a worker it would hold every heartbeat. Each line of
standard input is a request (`{"language", "text"}`), each line of standard output its outline, or `null`. A request
that takes too long ends the process, also when the parent has gone; the parent starts another one.

Not covered: what a parser written in C does with hostile text. It runs here, without our connections and secrets, but
with the rights of the user.
"""

import ast
import importlib
import importlib.util
import json
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

# Files of 1 MB take .2 to 3 s; more is a trap, and its file is cut by the look of its lines.
SECONDS_A_FILE = 10
# 1 MB of nested lists needs .6 GB as a tree.
MEMORY_BYTES = 2 * 1024**3
# Deeper places are never chosen, and a hostile file has a million of them.
DEEPEST = 24
# Grammars of a hundred languages; without them Python alone has a syntax here.
PACK = "tree_sitter_language_pack"

# Parts of these types of node that span several lines are definitions of their own.
CONTAINERS = (
    "class",
    "impl",
    "trait",
    "interface",
    "module",
    "namespace",
    "object",
    "struct",
    "enum",
    "protocol",
    "extension",
    "mixin",
    "contract",
    "export",
    "decorated",
    "template",
    "ambient",
    "linkage",
    "preproc",
)
# They hold definitions and are none themselves.
BODIES = ("body", "block", "list", "body_statement")

Outlined = dict[str, list[tuple[int, int]]]


def outline(language: str, text: str) -> Outlined | None:
    """Definitions and statements of the text; None when its syntax is not known, or too broken to be of use."""
    if language == "python":
        found = python_outline(text)
        if found is not None:
            return found
    return grammar_outline(language, text)


def python_outline(text: str) -> Outlined | None:
    """By the interpreter's own parser."""
    if "\r" in text.replace("\r\n", ""):
        # Python counts a lone carriage return as the end of a line; nobody else here does.
        return None
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    definitions, statements = [], []
    # A statement, its depth, and whether it stands in a module or class.
    waiting: list[tuple[ast.AST, int, bool]] = [(one, 0, True) for one in tree.body]
    while waiting:
        node, depth, outside = waiting.pop()
        first, last = span(node)
        statements.append((first, depth))
        is_class = isinstance(node, ast.ClassDef)
        if outside and (is_class or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            definitions.append((first, last))
        if last - first > 1 and depth < DEEPEST:
            waiting += [(one, depth + 1, outside and is_class) for one in parts(node)]
    return {"definitions": sorted(definitions), "statements": sorted(statements)}


def span(node: Any) -> tuple[int, int]:
    """First line of a statement with its decorators, and the line after its last."""
    lines = [node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))]
    return min(lines) - 1, int(node.end_lineno)


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """The statements inside a statement; handlers and cases count as some."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        for one in getattr(node, name, ()):
            if hasattr(one, "lineno"):
                yield one
            else:
                # A case of `match` has no line of its own; what it does has.
                yield from getattr(one, "body", ())


def grammar_outline(language: str, text: str) -> Outlined | None:
    """By tree-sitter, which reads past errors; None without its grammars."""
    if importlib.util.find_spec(PACK) is None:
        return None
    try:
        parser = importlib.import_module(PACK).get_parser(language)
    except LookupError:
        return None
    content = text.encode("utf-8", "surrogatepass")
    root = parser.parse(content).root_node
    if root.type == "ERROR":
        return None
    indents = [len(line) - len(line.lstrip(b" \t")) for line in content.split(b"\n")]
    definitions, statements = [], []
    waiting = [(child, 0, True) for child in root.named_children]
    while waiting:
        node, depth, outside = waiting.pop()
        first, column = node.start_point
        end, end_column = node.end_point
        last = end if end_column == 0 and end > first else end + 1
        if column <= indents[first]:
            statements.append((first, depth))
        if last - first <= 1 or depth >= DEEPEST:
            continue
        kind = node.type
        is_body = kind.rsplit("_", 1)[-1] in BODIES or kind in BODIES
        if outside and not is_body and "comment" not in kind:
            definitions.append((first, last))
        holds = outside and (is_body or kind.startswith(CONTAINERS))
        waiting += [(child, depth + 1, holds) for child in node.named_children]
    return {"definitions": sorted(set(definitions)), "statements": sorted(set(statements))}


def main() -> None:
    """Answer requests until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not Python's handler: the default action ends the process in the middle of a parser, too.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Ctrl-C is the parent's to notice.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        signal.alarm(SECONDS_A_FILE)
        request = json.loads(line)
        answer = json.dumps(outline(request["language"], request["text"]))
        signal.alarm(0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
