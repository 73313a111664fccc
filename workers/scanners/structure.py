"""What the modules of a repository define, refer to and expose: routes, functions, constants, imports.

Run as a program it reads paths from its input and prints one JSON line a file, so that a hostile file can stall only
that process: parsing holds the interpreter's lock.
"""

import ast
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chargehand.workers.sandbox import limited

STRUCTURE_TIMEOUT_SECONDS = 60.0
_OUTPUT_BYTES = 256 << 20
_VERBS = frozenset({"get", "post", "put", "delete", "patch", "head", "options", "websocket"})
_WEAK_HASHES = frozenset({"md5", "sha1"})


@dataclass(kw_only=True, slots=True)
class Unit:
    """A function, a method, a constant, or the rest of a module (`<module>`)."""

    name: str
    """Qualified inside its module: `Staff.begin_reset`, `create_app.search`, `SECRET_KEY`."""
    line: int
    end_line: int
    references: list[str] = field(default_factory=list)
    """Dotted names that it reads: `store.parcels_of`."""
    routes: list[str] = field(default_factory=list)
    """What a client sends to reach it: `GET /parcels`."""


@dataclass(kw_only=True, slots=True)
class ModuleStructure:
    """One module."""

    path: str
    module: str
    """Dotted name, from its path."""
    units: list[Unit]
    imports: dict[str, str]
    """Local name → dotted name."""
    is_program: bool
    """It has an `if __name__ == "__main__"`."""
    silenced_hashes: list[tuple[int, int, str]] = field(default_factory=list)
    """Line, end line and name of weak hashes that `usedforsecurity=False` hides from analysers."""


def read_structures(root: Path, files: Sequence[str]) -> tuple[tuple[ModuleStructure, ...], tuple[str, ...]]:
    """Parse the files in a process of its own; give the structures, and the paths that could not be parsed.

    When the process is stopped, what it had printed until then is used.
    """
    argv = [sys.executable, "-I", "-m", "chargehand.workers.scanners.structure"]
    result = limited(
        argv,
        folder=root,
        timeout_seconds=STRUCTURE_TIMEOUT_SECONDS,
        stdin=b"\0".join(os.fsencode(name) for name in files),
        stdout_bytes=_OUTPUT_BYTES,
    )
    structures = []
    for line in result.stdout.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            # The last line of a process that was stopped.
            continue
        row["units"] = [Unit(**unit) for unit in row["units"]]
        row["silenced_hashes"] = [tuple(hit) for hit in row["silenced_hashes"]]
        structures.append(ModuleStructure(**row))
    read = {structure.path for structure in structures}
    return tuple(structures), tuple(name for name in files if name.removeprefix("./") not in read)


def structure_of(source: str | bytes, path: str) -> ModuleStructure:
    """Give the structure of one module's text, or raise SyntaxError."""
    tree = ast.parse(source)
    module = module_name(path)
    reader = _Reader(module=module, is_package=path.endswith("__init__.py"))
    body = reader.unit("<module>", 1, len(source.splitlines()) + 1)
    reader.read_body(tree.body, prefix="", owner=body)
    return ModuleStructure(
        path=path,
        module=module,
        units=reader.units,
        imports=reader.imports,
        is_program=any(_is_main_guard(node) for node in tree.body),
        silenced_hashes=[*_silenced_hashes(tree)],
    )


def module_name(path: str) -> str:
    """The dotted name under which a file is imported, when its folder is on the path."""
    parts = path.removesuffix(".py").split("/")
    if parts[-1] == "__init__":
        parts.pop()
    if parts and parts[0] == "src":
        parts = parts[1:]
    return ".".join(parts)


@dataclass(kw_only=True, slots=True)
class _Reader:
    module: str
    is_package: bool
    units: list[Unit] = field(default_factory=list)
    imports: dict[str, str] = field(default_factory=dict)

    def unit(self, name: str, line: int, end_line: int) -> Unit:
        made = Unit(name=name, line=line, end_line=end_line)
        self.units.append(made)
        return made

    def read_body(self, body: Sequence[ast.stmt], *, prefix: str, owner: Unit) -> None:
        for node in body:
            self.read(node, prefix=prefix, owner=owner)

    def read(self, node: ast.AST, *, prefix: str, owner: Unit) -> None:
        """Walk statements, opening a unit at each definition; what is between belongs to the owner."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{node.name}"
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            inner = self.unit(name, first, node.end_lineno or node.lineno)
            inner.routes += [route for decorator in node.decorator_list for route in _routes(decorator)]
            if f"{owner.name}." == prefix:
                # Whoever makes a function inside another means to use it.
                owner.references.append(name)
            for outside in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
                self.read(outside, prefix=prefix, owner=owner)
            self.read_body(node.body, prefix=f"{name}.", owner=inner)
        elif isinstance(node, ast.ClassDef):
            name = f"{prefix}{node.name}"
            made = self.unit(name, node.lineno, node.end_lineno or node.lineno)
            for outside in (*node.bases, *node.decorator_list):
                self.read(outside, prefix=prefix, owner=made)
            for child in node.body:
                self.read(child, prefix=f"{name}.", owner=made)
            made.references = [
                one for one in made.references if not one.startswith(f"{name}.") or one == f"{name}.__init__"
            ]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not prefix and node.value is not None:
            self._constants(node, owner)
        else:
            self._expressions(node, prefix=prefix, owner=owner)

    def _constants(self, node: ast.Assign | ast.AnnAssign, owner: Unit) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        made = [self.unit(name, node.lineno, node.end_lineno or node.lineno) for name in names] or [owner]
        for unit in made:
            for child in ast.iter_child_nodes(node):
                self._expressions(child, prefix="", owner=unit)

    def _expressions(self, node: ast.AST, *, prefix: str, owner: Unit) -> None:
        if isinstance(node, ast.Call):
            for route, view in _registered(node):
                self.units.append(
                    Unit(
                        name=f"<route {route}>",
                        line=node.lineno,
                        end_line=node.lineno,
                        references=[view],
                        routes=[route],
                    )
                )
        name = _dotted(node)
        if name:
            owner.references.append(name)
            return
        for child in ast.iter_child_nodes(node):
            self.read(child, prefix=prefix, owner=owner)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                self.imports[local] = alias.name if alias.asname else local
            return
        package = self.module.split(".") if self.module else []
        if not self.is_package:
            package = package[:-1]
        if node.level:
            package = package[: len(package) - node.level + 1]
            start = ".".join([*package, *([node.module] if node.module else [])])
        else:
            start = node.module or ""
        for alias in node.names:
            self.imports[alias.asname or alias.name] = f"{start}.{alias.name}"


def _dotted(node: ast.AST) -> str:
    """`a.b.c` for names and attributes of names, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def _routes(decorator: ast.expr) -> Iterator[str]:
    """`@app.route("/x", methods=["POST"])`, `@router.get("/x")` and the like, whatever the object is called."""
    if not isinstance(decorator, ast.Call) or not isinstance(decorator.func, ast.Attribute) or not decorator.args:
        return
    path = decorator.args[0]
    if not isinstance(path, ast.Constant) or not isinstance(path.value, str) or not path.value.startswith("/"):
        return
    attribute = decorator.func.attr
    if attribute in _VERBS:
        yield f"{attribute.upper()} {path.value}"
    elif attribute in ("route", "api_route"):
        yield from (f"{verb} {path.value}" for verb in _methods(decorator))


def _methods(call: ast.Call) -> list[str]:
    for keyword in call.keywords:
        if keyword.arg == "methods" and isinstance(keyword.value, ast.List | ast.Tuple | ast.Set):
            values = [item.value for item in keyword.value.elts if isinstance(item, ast.Constant)]
            return [str(value).upper() for value in values] or ["GET"]
    return ["GET"]


def _registered(call: ast.Call) -> Iterator[tuple[str, str]]:
    """Django's `path("x/", views.x)` and Flask's `add_url_rule("/x", view_func=x)`."""
    called = _dotted(call.func).split(".")[-1]
    if not call.args or not isinstance(call.args[0], ast.Constant) or not isinstance(call.args[0].value, str):
        return
    pattern = call.args[0].value
    if called in ("path", "re_path") and len(call.args) > 1:
        view = call.args[1]
        name = _dotted(view.func).removesuffix(".as_view") if isinstance(view, ast.Call) else _dotted(view)
        if name and not name.endswith("include"):
            yield f"ANY /{pattern.lstrip('/')}", name
    elif called == "add_url_rule":
        views = [keyword.value for keyword in call.keywords if keyword.arg == "view_func"] or call.args[2:3]
        for view in views:
            if name := _dotted(view):
                yield from ((f"{verb} {pattern}", name) for verb in _methods(call))


def _is_main_guard(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
    )


def _silenced_hashes(tree: ast.AST) -> Iterator[tuple[int, int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _dotted(node.func).split(".")
        first = node.args[0] if node.args else None
        name = called[-1]
        if name == "new" and called[0] == "hashlib" and isinstance(first, ast.Constant):
            name = str(first.value).lower()
        off = any(
            keyword.arg == "usedforsecurity"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is False
            for keyword in node.keywords
        )
        if off and name in _WEAK_HASHES:
            yield node.lineno, node.end_lineno or node.lineno, name


def main() -> None:
    """Read NUL-separated paths from the input and print one JSON line for each that can be parsed."""
    sys.setrecursionlimit(3000)
    for name in os.fsdecode(sys.stdin.buffer.read()).split("\0"):
        path = name.removeprefix("./")
        try:
            found = structure_of(Path(name).read_bytes(), path)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            # Reported by the caller, who misses its line.
            continue
        row = {
            "path": found.path,
            "module": found.module,
            "imports": found.imports,
            "is_program": found.is_program,
            "silenced_hashes": found.silenced_hashes,
            "units": [
                {
                    "name": unit.name,
                    "line": unit.line,
                    "end_line": unit.end_line,
                    "references": sorted(set(unit.references)),
                    "routes": unit.routes,
                }
                for unit in found.units
            ],
        }
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
