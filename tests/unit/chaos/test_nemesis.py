"""The nemesis goes on when a strike finds nothing to strike, and says when it cannot."""

import random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from chaos import nemesis
from chaos.evidence import Strike
from chaos.nemesis import Nemesis
from kombu.exceptions import OperationalError


def made(scene: object) -> list[Strike]:
    return [Strike(what="kill worker: audit", at=1.0, until=1.0)]


def striking(**strikes: Any) -> Any:
    return mock.patch.dict(nemesis.STRIKES, {name: (1, act) for name, act in strikes.items()}, clear=True)


def nemesis_of(faults: int) -> Nemesis:
    nothing: Any = SimpleNamespace(wires=None)
    return Nemesis(
        machine=nothing,
        diary=nothing,
        open_runs=lambda: (),
        progress=lambda: 1.0,
        chance=random.Random(1),
        faults=faults,
        pause_seconds=0.001,
    )


def wait_for(one: Nemesis) -> None:
    for thread in one._threads:
        thread.join(timeout=60)


def test_a_strike_that_finds_the_broker_away_gives_way_to_another() -> None:
    def away(scene: object) -> list[Strike]:
        raise OperationalError("Error 111 connecting to 127.0.0.1:34437. Connection refused.")

    with striking(away=away, made=made), nemesis_of(5) as one:
        wait_for(one)

    assert one.made["kills"] + one.made["others"] == 1
    assert len(one._done) == 5


def test_what_is_wrong_in_a_strike_itself_ends_the_story() -> None:
    def wrong(scene: object) -> list[Strike]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), striking(wrong=wrong), nemesis_of(5) as one:
        wait_for(one)
