"""The function around a finding, and where the values in it come from.

Follows names within one function only. It knows nothing of aliases, attributes or what a called function does, and says
*unknown* there: a rule that is not sure must not dismiss.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

# Parsing holds the interpreter for about 3 ms a kilobyte; no function that a person reads is longer.
MAX_PARSED_CHARACTERS = 300_000
# Assignments followed from one name to the next before giving up.
MAX_HOPS = 8
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Calls whose result cannot carry text from outside.
_NUMERIC_CALLS = frozenset({"int", "float", "bool", "len", "abs", "round"})
_QUOTING_CALLS = frozenset({"quote"})
_REQUEST = re.compile(r"\b(request|req|flask\.request|self\.request)\b|\b(sys\.argv|input)\b")


class Trust(IntEnum):
    """How far a value can be trusted; larger is worse."""

    FIXED = 0
    UNKNOWN = 1
    OUTSIDE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a value comes from, in words."""

    trust: Trust
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The innermost function around a line, or the module."""

    node: Function | ast.Module
    offset: int
    """Added to a node's line gives the line in the file."""
    constants: Mapping[str, ast.expr]
    """Module-level names that are assigned once."""

    @property
    def name(self) -> str:
        """The function's name; empty at module level."""
        return "" if isinstance(self.node, ast.Module) else self.node.name

    @property
    def parameters(self) -> frozenset[str]:
        """Names that the caller fills."""
        if isinstance(self.node, ast.Module):
            return frozenset()
        arguments = self.node.args
        listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        listed += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        return frozenset(argument.arg for argument in listed if argument.arg not in {"self", "cls"})

    def calls_at(self, first: int, last: int) -> list[ast.Call]:
        """Calls that touch these lines, the smallest first."""
        calls = [
            node for node in ast.walk(self.node) if isinstance(node, ast.Call) and self._touches(node, first, last)
        ]
        return sorted(calls, key=lambda call: (call.end_lineno or call.lineno) - call.lineno)

    def statement_at(self, line: int) -> ast.stmt | None:
        """The smallest statement that holds this line."""
        holding = [
            node for node in ast.walk(self.node) if isinstance(node, ast.stmt) and self._touches(node, line, line)
        ]
        return min(holding, key=lambda node: (node.end_lineno or node.lineno) - node.lineno, default=None)

    def _touches(self, node: ast.expr | ast.stmt, first: int, last: int) -> bool:
        return node.lineno + self.offset <= last and (node.end_lineno or node.lineno) + self.offset >= first


def scope_around(lines: Mapping[int, str], line: int) -> Scope | None:
    """The scope of a line among the known lines of a file, or None when it cannot be parsed."""
    if line not in lines:
        return None
    first = line
    while first - 1 in lines:
        first -= 1
    last = line
    while last + 1 in lines:
        last += 1
    tree = _parsed("\n".join(lines[number] for number in range(first, last + 1))) if first == 1 else None
    if tree is not None:
        offset, node = 0, _innermost(tree, line)
        constants = _constants(tree)
    else:
        block = _block_around(lines, line, first, last)
        if block is None:
            return None
        start, text = block
        part = _parsed(textwrap.dedent(text))
        if part is None:
            return None
        offset = start - 1
        node = _innermost(part, line - offset)
        constants = _constants_in_text(lines)
    return Scope(node=node, offset=offset, constants=constants)


def _parsed(text: str) -> ast.Module | None:
    if len(text) > MAX_PARSED_CHARACTERS:
        return None
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _innermost(tree: ast.Module, line: int) -> Function | ast.Module:
    best: Function | ast.Module = tree
    for node in ast.walk(tree):
        if isinstance(node, Function) and node.lineno <= line <= (node.end_lineno or node.lineno):
            best = node
    return best


def _block_around(lines: Mapping[int, str], line: int, first: int, last: int) -> tuple[int, str] | None:
    """The `def` above a line with everything indented below it, when the file is known only in part."""
    start = next(
        (
            number
            for number in range(line, first - 1, -1)
            if re.match(r"\s*(async\s+)?def\s", lines[number])
            and (number == line or _indent(lines[number]) < _indent(lines[line]))
        ),
        None,
    )
    if start is None:
        return None
    end = start + 1
    while end <= last and (not lines[end].strip() or _indent(lines[end]) > _indent(lines[start]) or end <= line):
        end += 1
    return start, "\n".join(lines[number] for number in range(start, end))


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    values: dict[str, ast.expr] = {}
    again: set[str] = set()
    for statement in tree.body:
        for name, value in _bindings(statement):
            if name in values:
                again.add(name)
            values[name] = value
    return {name: value for name, value in values.items() if name not in again}


def _constants_in_text(lines: Mapping[int, str]) -> dict[str, ast.expr]:
    values: dict[str, ast.expr] = {}
    for text in lines.values():
        if re.match(r"[A-Z][A-Z0-9_]*\s*(:[^=]+)?=[^=]", text) and (tree := _parsed(text)) is not None:
            values.update(_constants(tree))
    return values


def _bindings(statement: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
        if isinstance(statement.target, ast.Name) and statement.value is not None:
            yield statement.target.id, statement.value
    elif isinstance(statement, ast.For | ast.AsyncFor | ast.comprehension) and isinstance(statement.target, ast.Name):
        yield statement.target.id, statement.iter


def values_of(name: str, scope: Scope) -> list[ast.expr]:
    """Everything that the scope assigns to a name."""
    return [value for node in ast.walk(scope.node) for bound, value in _bindings(node) if bound == name]


def origin_of(expression: ast.expr, scope: Scope, hops: int = MAX_HOPS) -> Origin:
    """Where an expression's value comes from: the least trustworthy of its parts."""
    if hops <= 0:
        return Origin(trust=Trust.UNKNOWN, words=f"`{short(expression)}`")
    if isinstance(expression, ast.Constant):
        return Origin(trust=Trust.FIXED, words="a constant")
    if isinstance(expression, ast.Name):
        return _origin_of_name(expression, scope, hops)
    if isinstance(expression, ast.IfExp):
        return _origin_of_choice(expression, scope, hops)
    if isinstance(expression, ast.Subscript):
        table = expression.value
        if isinstance(table, ast.Name) and _is_fixed_collection(scope.constants.get(table.id)):
            return Origin(trust=Trust.FIXED, words=f"the fixed table `{table.id}`")
        return _outside_or(expression, scope, hops, parts=[table])
    if isinstance(expression, ast.Call):
        return _origin_of_call(expression, scope, hops)
    if isinstance(expression, ast.Attribute):
        if expression.attr.isupper():
            return Origin(trust=Trust.FIXED, words=f"the constant `{short(expression)}`")
        return _outside_or(expression, scope, hops, parts=[expression.value])
    parts = [node for node in ast.iter_child_nodes(expression) if isinstance(node, ast.expr)]
    return worst([origin_of(part, scope, hops - 1) for part in parts])


def worst(origins: list[Origin]) -> Origin:
    """The least trustworthy one; a named list says more than a constant."""
    if not origins:
        return Origin(trust=Trust.FIXED, words="constants")
    return max(origins, key=lambda origin: (origin.trust, origin.words not in {"a constant", "constants"}))


def _origin_of_name(expression: ast.Name, scope: Scope, hops: int) -> Origin:
    name = expression.id
    guard = _guarding_list(name, expression.lineno, scope)
    if guard:
        return Origin(trust=Trust.FIXED, words=f"`{name}`, which was checked against the allow-list `{guard}`")
    values = values_of(name, scope)
    if values:
        origin = worst([origin_of(value, scope, hops - 1) for value in values])
        if name in scope.parameters and origin.trust < Trust.OUTSIDE:
            return Origin(trust=Trust.OUTSIDE, words=f"parameter `{name}`")
        return origin
    if name in scope.parameters:
        return Origin(trust=Trust.OUTSIDE, words=f"parameter `{name}` of `{scope.name}`")
    if name in scope.constants:
        value = scope.constants[name]
        if isinstance(value, ast.Constant) or _is_fixed_collection(value):
            return Origin(trust=Trust.FIXED, words=f"the constant `{name}`")
    return Origin(trust=Trust.UNKNOWN, words=f"`{name}`")


def _origin_of_choice(expression: ast.IfExp, scope: Scope, hops: int) -> Origin:
    """`x if x in ALLOWED else "default"` is as good as the list."""
    test = expression.test
    if (
        isinstance(test, ast.Compare)
        and len(test.ops) == 1
        and isinstance(test.ops[0], ast.In)
        and ast.dump(test.left) == ast.dump(expression.body)
        and _allow_list(test.comparators[0], scope)
    ):
        other = origin_of(expression.orelse, scope, hops - 1)
        if other.trust is Trust.FIXED:
            return Origin(
                trust=Trust.FIXED,
                words=f"`{short(expression.body)}` only if it is in the allow-list `{short(test.comparators[0])}`",
            )
    return worst([origin_of(expression.body, scope, hops - 1), origin_of(expression.orelse, scope, hops - 1)])


def _origin_of_call(call: ast.Call, scope: Scope, hops: int) -> Origin:
    name = called(call).rsplit(".", 1)[-1]
    if isinstance(call.func, ast.Name) and name in _NUMERIC_CALLS:
        return Origin(trust=Trust.FIXED, words=f"a number (`{short(call)}`)")
    if called(call) in {"shlex.quote", "quote"} and name in _QUOTING_CALLS:
        return Origin(trust=Trust.FIXED, words=f"quoted text (`{short(call)}`)")
    if called(call) == "input":
        return Origin(trust=Trust.OUTSIDE, words="what the user types (`input()`)")
    parts = [*call.args, *(keyword.value for keyword in call.keywords)]
    if isinstance(call.func, ast.Attribute):
        owner = call.func.value
        if name == "get" and isinstance(owner, ast.Name) and _is_fixed_collection(scope.constants.get(owner.id)):
            return Origin(trust=Trust.FIXED, words=f"the fixed table `{owner.id}`")
        if name in {"join", "format", "strip", "lower", "upper", "replace", "encode", "decode"}:
            return worst([origin_of(part, scope, hops - 1) for part in (owner, *parts)])
        parts = [owner, *parts]
    reached = worst([origin_of(part, scope, hops - 1) for part in parts])
    if reached.trust is Trust.OUTSIDE or _REQUEST.search(short(call)):
        return Origin(
            trust=Trust.OUTSIDE, words=reached.words if reached.trust is Trust.OUTSIDE else f"`{short(call)}`"
        )
    # A call of something unknown may read anything.
    return Origin(trust=Trust.UNKNOWN, words=f"`{short(call)}`")


def _outside_or(expression: ast.expr, scope: Scope, hops: int, *, parts: list[ast.expr]) -> Origin:
    if _REQUEST.search(short(expression)):
        return Origin(trust=Trust.OUTSIDE, words=f"`{short(expression)}`")
    reached = worst([origin_of(part, scope, hops - 1) for part in parts])
    if reached.trust is Trust.OUTSIDE:
        return Origin(trust=Trust.OUTSIDE, words=f"`{short(expression)}`, from {reached.words}")
    return Origin(trust=Trust.UNKNOWN, words=f"`{short(expression)}`")


def _guarding_list(name: str, line: int, scope: Scope) -> str:
    """The list in `if name not in LIST: raise` (or return) above the line, if nothing is assigned after it."""
    for node in ast.walk(scope.node):
        if not isinstance(node, ast.If) or (node.end_lineno or node.lineno) >= line:
            continue
        test = node.test
        if (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and isinstance(test.ops[0], ast.NotIn)
            and isinstance(test.left, ast.Name)
            and test.left.id == name
            and node in getattr(scope.node, "body", ())
            and isinstance(node.body[-1], ast.Raise | ast.Return)
            and _allow_list(test.comparators[0], scope)
        ):
            later = [value for value in values_of(name, scope) if value.lineno > node.lineno]
            if not later:
                return short(test.comparators[0])
    return ""


def _allow_list(expression: ast.expr, scope: Scope) -> bool:
    if isinstance(expression, ast.Name):
        local = values_of(expression.id, scope)
        value = local[0] if len(local) == 1 else scope.constants.get(expression.id)
        return expression.id not in scope.parameters and _is_fixed_collection(value)
    return _is_fixed_collection(expression)


def _is_fixed_collection(value: ast.expr | None) -> bool:
    """A list, set, tuple or dictionary of constants, also inside `frozenset(…)`."""
    if isinstance(value, ast.Call) and called(value) in {"frozenset", "set", "tuple", "list"}:
        return len(value.args) == 1 and _is_fixed_collection(value.args[0])
    if isinstance(value, ast.Dict):
        return bool(value.values) and all(isinstance(item, ast.Constant) for item in value.values)
    if isinstance(value, ast.List | ast.Set | ast.Tuple):
        return bool(value.elts) and all(isinstance(item, ast.Constant) for item in value.elts)
    return False


def keyword_value(call: ast.Call, name: str, scope: Scope) -> ast.expr | None:
    """A keyword's value, also when it comes in `**options` from a dictionary of this scope."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
        if keyword.arg is None and isinstance(keyword.value, ast.Name):
            sources = values_of(keyword.value.id, scope) or [
                value for bound, value in scope.constants.items() if bound == keyword.value.id
            ]
            if len(sources) != 1:
                continue
            source = sources[0]
            if isinstance(source, ast.Call) and called(source) == "dict":
                for inner in source.keywords:
                    if inner.arg == name:
                        return inner.value
            if isinstance(source, ast.Dict):
                for key, value in zip(source.keys, source.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == name:
                        return value
    return None


def called(call: ast.Call) -> str:
    """The dotted name of what is called; empty for anything else."""
    names: list[str] = []
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        names.append(node.id)
    return ".".join(reversed(names))


def short(expression: ast.AST, limit: int = 60) -> str:
    """The source of an expression on one line, cut."""
    text = " ".join(ast.unparse(expression).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
