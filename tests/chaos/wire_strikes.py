"""Strikes on the way from one process to Postgres or Valkey: cut, slow, half closed, silent, or robbed of replies."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from chaos.evidence import Strike
from chaos.machine import until
from chaos.proxy import Link
from chaos.scene import SEARCH_SECONDS, SUPERVISOR, Act, NothingThere, Scene
from chaos.wires import Wires
from chargehand.orchestrator.plan import POOLS

Break = Callable[[Scene, Link], str]
"""Breaks a link and says how badly; raises `NothingThere`."""
MOST_LOST_REPLIES = 4


def lose_replies(scene: Scene) -> list[Strike]:
    """The next commits of a process are done, and it never hears of them."""
    name, _ = scene.some((*POOLS, SUPERVISOR))
    link = _wires(scene).postgres[name]
    with scene.only(f"wire of {name}"):
        began, before = time.time(), len(link.lost)
        times = scene.chance.randint(1, MOST_LOST_REPLIES)
        link.lose_replies(times)
        with suppress(AssertionError):
            until(lambda: len(link.lost) == before + times, SEARCH_SECONDS)
        link.heal()
        lost = len(link.lost) - before
        if not lost:
            raise NothingThere
        return [Strike(what=f"lose replies: {name} ({lost})", at=began, until=time.time())]


def _cut(scene: Scene, link: Link) -> str:
    del scene
    if not link.cut():
        raise NothingThere
    return ""


def _delay(scene: Scene, link: Link) -> str:
    seconds = round(scene.chance.uniform(0.02, 0.5), 3)
    link.delay(seconds)
    return f" by {seconds:g} s"


def _half_close(scene: Scene, link: Link) -> str:
    del scene
    if not link.half_close():
        raise NothingThere
    return ""


def _silence(scene: Scene, link: Link) -> str:
    del scene
    link.silence()
    return ""


# What is done to a link, and for how many seconds.
_FAULTS: Mapping[str, tuple[Break, float, float]] = {
    "cut": (_cut, 0, 0),
    "delay": (_delay, 1, 4),
    "half-close": (_half_close, 1, 5),
    "silence": (_silence, 2, 7),
}


def _broken(fault: str, service: str) -> Act:
    break_it, least_seconds, most_seconds = _FAULTS[fault]

    def act(scene: Scene) -> list[Strike]:
        wires = _wires(scene)
        name, _ = scene.some((*POOLS, SUPERVISOR))
        link = (wires.valkey if service == "valkey" else wires.postgres)[name]
        with scene.only(f"wire of {name}"):
            began = time.time()
            how = break_it(scene, link)
            try:
                scene.pause(scene.chance.uniform(least_seconds, most_seconds))
            finally:
                link.heal()
            return [Strike(what=f"{fault} {service}: {name}{how}", at=began, until=time.time())]

    return act


def _wires(scene: Scene) -> Wires:
    if scene.machine.wires is None:
        raise NothingThere
    return scene.machine.wires


WIRE_STRIKES: Mapping[str, Act] = {
    f"{fault} {service}": _broken(fault, service) for fault in _FAULTS for service in ("postgres", "valkey")
}
