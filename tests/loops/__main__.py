"""`PYTHONPATH=tests python -m loops`: writes `tests/data/loops/*.jsonl` anew from their seeds."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loops import (
    clouds,
    crews,
    desks,
    engineers,
    errands,
    held_out,
    ledgers,
    lists,
    mixtures,
    operations,
    probed,
    reported,
    screens,
    services,
    shells,
    staged,
    stalled,
    terse,
    tongues,
    toolchains,
    tuned,
    unseen,
)
from loops.family import Families
from loops.scene import Scene

Family = Callable[[random.Random], Scene]

FOLDER = Path(__file__).parents[1] / "data" / "loops"
SEEDS = 12
# Two hundred agents each: a few of these show all there is to see.
LARGE_SEEDS = 2
# By which the families of the transcripts, and of the wide sets, were parted.
LOT, WIDE_LOT, FIELD_LOT, DAILY_LOT = "2026-11-25", "2026-11-26", "2026-11-26 field", "2026-11-26 daily"
# Of the wide sets, which have many families.
WIDE_SEEDS = 8
STAGED_SEEDS = 3
FIELD_SEEDS = 4
DAILY_SEEDS = 2
_Half = tuple[dict[str, list[Family]], list[Family]]
LARGE = frozenset({tuned.fan_out_429, held_out.fan_out_timeouts})


def write() -> None:
    """One file a set, one line a trace."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, lines in sets().items():
        (FOLDER / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def sets() -> dict[str, list[str]]:
    """The lines of each set."""
    designed, sealed = _halves((shells.FAMILIES, services.FAMILIES, crews.FAMILIES), LOT)
    books = (module.FAMILIES for module in (clouds, desks, engineers, ledgers, terse, tongues))
    wide, wide_sealed = _halves(tuple(books), WIDE_LOT)
    field, field_sealed = _halves((operations.FAMILIES, screens.FAMILIES, toolchains.FAMILIES), FIELD_LOT)
    daily, daily_sealed = _halves((stalled.FAMILIES, errands.FAMILIES), DAILY_LOT)
    crossed, crossed_sealed = mixtures.halves()
    return {
        "tuned": list(_lines(tuned.LOOPS, tuned.WORK, SEEDS)),
        "held_out": list(_lines(held_out.LOOPS, held_out.WORK, SEEDS)),
        "unseen": list(_lines(unseen.LOOPS, unseen.WORK, SEEDS)),
        "probed": list(_lines(probed.FAMILIES.loops, probed.FAMILIES.work, 1)),
        "designed": list(_lines(*designed, SEEDS)),
        "sealed": list(_lines(*sealed, SEEDS)),
        "wide": list(_lines(*wide, WIDE_SEEDS)),
        "wide_sealed": list(_lines(*wide_sealed, WIDE_SEEDS)),
        "staged": list(_lines(staged.FAMILIES.loops, staged.FAMILIES.work, STAGED_SEEDS)),
        "lists": list(_lines(lists.FAMILIES.loops, lists.FAMILIES.work, STAGED_SEEDS)),
        "field": list(_lines(*field, FIELD_SEEDS)),
        "field_sealed": list(_lines(*field_sealed, FIELD_SEEDS)),
        "crossed": list(_lines(*crossed, 1)),
        "crossed_sealed": list(_lines(*crossed_sealed, 1)),
        "daily": list(_lines(*daily, DAILY_SEEDS)),
        "daily_sealed": list(_lines(*daily_sealed, DAILY_SEEDS)),
        "reported": list(_lines(reported.LOOPS, reported.WORK, 1)),
    }


def _halves(books: Sequence[Families], lot: str) -> tuple[_Half, _Half]:
    """Families in two halves by lot: one was looked at while the detectors were made."""
    kinds: dict[str, list[Family]] = {}
    for book in books:
        for kind, families in (*book.loops.items(), ("work", book.work)):
            kinds.setdefault(kind, []).extend(families)
    halves: tuple[_Half, _Half] = ({}, []), ({}, [])
    for kind in sorted(kinds):
        families = sorted(kinds[kind], key=lambda family: family.__name__)
        random.Random(f"{lot} {kind}").shuffle(families)
        for half, those in zip(halves, (families[::2], families[1::2]), strict=True):
            if kind == "work":
                half[1].extend(those)
            else:
                half[0][kind] = those
    return halves


def _lines(loops: Mapping[str, Sequence[Family]], work: Sequence[Family], seeds: int) -> Iterator[str]:
    families = [(kind, family) for kind, those in loops.items() for family in those]
    families += [("work", family) for family in work]
    for kind, family in families:
        for seed in range(LARGE_SEEDS if family in LARGE else seeds):
            name = family.__name__
            yield _line(name, kind, seed, family(random.Random(f"{name} {seed}")))


def _line(family: str, kind: str, seed: int, scene: Scene) -> str:
    trace: dict[str, Any] = {"family": family, "kind": kind, "seed": seed, "loop": kind != "work"}
    if trace["loop"]:
        trace |= {"first": scene.first, "at": scene.at}
    return json.dumps({**trace, "calls": scene.calls}, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    write()
