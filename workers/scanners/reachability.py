"""Which routes and programs lead to a line, by the names that functions refer to. Pure.

Names are followed, not values: a call through a registry, `getattr` or a computed name is missed, and a method is
matched by its name alone when its object is unknown. It ranks findings; it proves neither that a path is taken nor that
none is.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chargehand.workers.scanners.structure import ModuleStructure, Unit

# A method name that more classes than this define says nothing about which one is meant.
MAX_METHOD_CANDIDATES = 3
# Re-exports through `__init__` files are followed this far.
_MAX_REEXPORTS = 5
# Names of the standard containers: `x.get` is nearly never the repository's own `get`.
_EVERYDAY_METHODS = frozenset(
    {
        "add", "append", "clear", "close", "copy", "count", "decode", "encode", "extend", "format", "get", "index",
        "insert", "items", "join", "keys", "open", "pop", "read", "remove", "replace", "run", "set", "sort", "split",
        "start", "strip", "update", "values", "write",
    }
)  # fmt: skip

Place = tuple[str, str]
"""Path and unit name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reachability:
    """Routes and programs of a repository, and what each leads to."""

    routes: tuple[str, ...]
    programs: tuple[str, ...]
    labels: Mapping[Place, tuple[str, ...]]
    """For each unit the routes, then programs, that lead to it."""
    units: Mapping[str, tuple[Unit, ...]]
    """Units by path."""

    def of(self, path: str, line: int) -> tuple[str, ...]:
        """Routes and programs from which names lead to the innermost definition around the line."""
        around = [unit for unit in self.units.get(path, ()) if unit.line <= line <= unit.end_line]
        if not around:
            return ()
        innermost = min(around, key=lambda unit: (unit.end_line - unit.line, -unit.line))
        return self.labels.get((path, innermost.name), ())


def trace(structures: Sequence[ModuleStructure]) -> Reachability:
    """Follow the names from every route and program."""
    graph = _Graph(structures)
    starts: dict[str, list[Place]] = defaultdict(list)
    for structure in structures:
        for unit in structure.units:
            for route in unit.routes:
                starts[route].append((structure.path, unit.name))
    routes = tuple(sorted(starts, key=lambda route: (route.split(" ", 1)[1], route)))
    programs = []
    for structure in structures:
        if structure.is_program:
            label = f"python -m {structure.module}" if "/" in structure.path else f"python {structure.path}"
            programs.append(label)
            starts[label].append((structure.path, "<module>"))
    labels: dict[Place, list[str]] = defaultdict(list)
    for label in (*routes, *sorted(programs)):
        for place in graph.closure(starts[label]):
            labels[place].append(label)
    return Reachability(
        routes=routes,
        programs=tuple(sorted(programs)),
        labels={place: tuple(found) for place, found in labels.items()},
        units={structure.path: tuple(structure.units) for structure in structures},
    )


class _Graph:
    def __init__(self, structures: Sequence[ModuleStructure]) -> None:
        self._by_path = {structure.path: structure for structure in structures}
        self._names = {structure.path: {unit.name: unit for unit in structure.units} for structure in structures}
        self._modules = _module_index(structures)
        self._methods: dict[str, list[Place]] = defaultdict(list)
        for structure in structures:
            for unit in structure.units:
                if "." in unit.name:
                    self._methods[unit.name.rsplit(".", 1)[1]].append((structure.path, unit.name))

    def closure(self, starts: Sequence[Place]) -> set[Place]:
        seen: set[Place] = set()
        waiting = list(starts)
        while waiting:
            place = waiting.pop()
            if place in seen:
                continue
            seen.add(place)
            path, name = place
            for reference in self._names[path][name].references:
                waiting.extend(self._targets(path, name, reference))
        return seen

    def _targets(self, path: str, name: str, reference: str) -> Iterator[Place]:
        names = self._names[path]
        first, _, rest = reference.partition(".")
        if first in ("self", "cls") and "." in name:
            method = f"{name.rsplit('.', 1)[0]}.{rest.split('.')[0]}"
            if method in names:
                yield path, method
                return
        scope = name if name != "<module>" else ""
        while True:
            local = f"{scope}.{reference}" if scope else reference
            if local in names:
                yield from self._defined(path, local)
                return
            local = f"{scope}.{first}" if scope else first
            if local in names and rest:
                yield from self._defined(path, local)
                break
            if not scope:
                break
            scope = scope.rpartition(".")[0]
        imported = self._by_path[path].imports.get(first)
        if imported is not None:
            yield from self._imported(f"{imported}.{rest}" if rest else imported, _MAX_REEXPORTS)
        elif rest:
            method = reference.rsplit(".", 1)[1]
            candidates = self._methods.get(method, [])
            if method not in _EVERYDAY_METHODS and len(candidates) <= MAX_METHOD_CANDIDATES:
                yield from candidates

    def _defined(self, path: str, name: str) -> Iterator[Place]:
        yield path, name
        if f"{name}.__init__" in self._names[path]:
            yield path, f"{name}.__init__"

    def _imported(self, dotted: str, hops: int) -> Iterator[Place]:
        parts = dotted.split(".")
        for cut in range(len(parts), 0, -1):
            path = self._modules.get(".".join(parts[:cut]))
            if path is None:
                continue
            wanted = parts[cut:]
            for length in range(len(wanted), 0, -1):
                if ".".join(wanted[:length]) in self._names[path]:
                    yield from self._defined(path, ".".join(wanted[:length]))
                    return
            if wanted and hops and (onward := self._by_path[path].imports.get(wanted[0])):
                yield from self._imported(".".join([onward, *wanted[1:]]), hops - 1)
            return


def _module_index(structures: Sequence[ModuleStructure]) -> dict[str, str]:
    """Dotted names, and the endings of them that only one module has, to paths (`backend/app/x.py` is `app.x`)."""
    exact = {structure.module: structure.path for structure in structures}
    endings: dict[str, set[str]] = defaultdict(set)
    for structure in structures:
        parts = structure.module.split(".")
        for start in range(1, len(parts)):
            endings[".".join(parts[start:])].add(structure.path)
    unique = {name: next(iter(paths)) for name, paths in endings.items() if len(paths) == 1}
    return {**unique, **exact}
