"""What changes in a text from one call to the next although nothing has happened: times, ids, addresses."""

import random
import re
from collections.abc import Callable

_MARKS: dict[str, Callable[[random.Random], str]] = {
    "iso": lambda r: f"2026-11-{r.randint(1, 28):02}T{_time(r)}.{r.randint(0, 999):03}Z",
    "time": lambda r: _time(r),
    "epoch": lambda r: str(r.randint(1_764_000_000, 1_764_999_999)),
    "uuid": lambda r: "-".join(_hex(r, size) for size in (8, 4, 4, 4, 12)),
    "hex": lambda r: _hex(r, 12),
    "address": lambda r: f"0x7f{_hex(r, 10)}",
    "ms": lambda r: f"{r.randint(3, 900)} ms",
    "seconds": lambda r: f"{r.uniform(0.01, 9):.2f}s",
    "pid": lambda r: str(r.randint(300, 32_000)),
    "number": lambda r: str(r.randint(2, 99_999)),
}


def fill(template: str, rng: random.Random) -> str:
    """The template with a fresh value for each `<mark>`; other tags stay."""
    return re.sub(r"<(\w+)>", lambda found: _MARKS[found[1]](rng) if found[1] in _MARKS else found[0], template)


def listed(words: str) -> tuple[str, ...]:
    """The words of a line."""
    return tuple(words.split())


def commit(rng: random.Random) -> str:
    """A commit's hash."""
    return _hex(rng, 40)


def _hex(rng: random.Random, size: int) -> str:
    return "".join(rng.choice("0123456789abcdef") for _ in range(size))


def _time(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}"
