"""Families of one module: a function that fills a scene, and what a person says of the calls in it."""

import random
from collections.abc import Callable

from loops.scene import Scene

Family = Callable[[random.Random], Scene]
Case = Callable[[Scene, random.Random], None]


class Families:
    """The families of a module, by what a person says of them."""

    def __init__(self) -> None:
        self.loops: dict[str, list[Family]] = {}
        self.work: list[Family] = []

    def loop(self, kind: str) -> Callable[[Case], Case]:
        """A case that says itself where its loop begins and where it shows."""

        def remember(case: Case) -> Case:
            self.loops.setdefault(kind, []).append(_family(case))
            return case

        return remember

    def loop_at(self, kind: str, at: int) -> Callable[[Case], Case]:
        """A case that is a loop from its first call on, in which a person would say so at the call `at`."""

        def remember(case: Case) -> Case:
            def filled(scene: Scene, rng: random.Random) -> None:
                scene.first, scene.at = 0, at
                case(scene, rng)

            filled.__name__ = case.__name__
            self.loops.setdefault(kind, []).append(_family(filled))
            return case

        return remember

    def honest(self, case: Case) -> Case:
        """A case in which the agents get on."""
        self.work.append(_family(case))
        return case


def _family(case: Case) -> Family:
    def family(rng: random.Random) -> Scene:
        scene = Scene(rng)
        case(scene, rng)
        return scene

    family.__name__ = case.__name__.strip("_")
    return family
