"""`python -m benchmarks [turn core fleet idle]`: one JSON line a figure, and exit code 1 when a promise is not kept."""

import sys
from collections.abc import Callable, Iterator

from benchmarks import core, fleet, idle, turn
from benchmarks.figures import Figure
from benchmarks.ground import open_ground


def _turn() -> Iterator[Figure]:
    with open_ground() as ground:
        yield from turn.measure(ground)


def _core() -> Iterator[Figure]:
    with open_ground() as ground:
        yield from core.measure(ground)


SUITES: dict[str, Callable[[], Iterator[Figure]]] = {
    "turn": _turn,
    "core": _core,
    "fleet": fleet.measure,
    "idle": idle.measure,
}


def main(names: list[str]) -> int:
    """Measure the suites named, or all; gives the exit code."""
    unknown = sorted(set(names) - SUITES.keys())
    if unknown:
        print(f"Unknown benchmark {', '.join(unknown)}; there are: {', '.join(SUITES)}.", file=sys.stderr)
        return 2
    kept = True
    for name in names or SUITES:
        for figure in SUITES[name]():
            print(figure.line(), flush=True)
            kept = kept and figure.ok is not False
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
