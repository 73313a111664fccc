"""Breaks a machine again and again: draws its strikes from decks that a seed has shuffled, several at a time.

It keeps step with the work, so that the last strike finds something to hit as the first one does.
"""

import random
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kombu.exceptions import OperationalError as BrokerAway
from redis.exceptions import ConnectionError as RedisConnectionError

from chaos.diary import Diary, pool_of
from chaos.evidence import Strike
from chaos.machine import Machine
from chaos.message_strikes import drop_messages, duplicate_messages, reorder_messages
from chaos.process_strikes import (
    fill_disk,
    freeze_before_effect,
    freeze_supervisor,
    freeze_worker,
    kill_pool,
    kill_supervisor,
    kill_valkey,
    kill_worker,
    stop_postgres,
    stop_worker,
)
from chaos.scene import Act, NothingThere, Scene
from chaos.wire_strikes import WIRE_STRIKES, lose_replies
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.errors import Unavailable

# How often each is in a deck, and what it does.
STRIKES: Mapping[str, tuple[int, Act]] = {
    "kill worker": (4, kill_worker),
    "kill pool": (2, kill_pool),
    "kill supervisor": (2, kill_supervisor),
    "stop worker": (1, stop_worker),
    "freeze worker": (1, freeze_worker),
    "freeze before an effect": (2, freeze_before_effect),
    "freeze supervisor": (1, freeze_supervisor),
    "kill valkey": (2, kill_valkey),
    "stop postgres": (2, stop_postgres),
    "fill disk": (1, fill_disk),
    "lose replies": (3, lose_replies),
    "duplicate messages": (2, duplicate_messages),
    "reorder messages": (1, reorder_messages),
    "drop messages": (2, drop_messages),
    **{name: (1, act) for name, act in WIRE_STRIKES.items()},
}
# SIGKILL, and what comes near it: nothing has to be healed, only to start again. Where so many are wanted beside the
# other strikes, a worker's costs a few seconds of a core, and everybody waits for Postgres.
KILLS: Mapping[str, tuple[int, Act]] = {
    "kill worker": (11, kill_worker),
    "kill pool": (2, kill_pool),
    "kill supervisor": (4, kill_supervisor),
    "kill valkey": (2, kill_valkey),
    "stop postgres": (1, stop_postgres),
}
OTHERS: Mapping[str, tuple[int, Act]] = {name: cards for name, cards in STRIKES.items() if name not in KILLS}
# Strikes that last do not keep others from coming meanwhile.
HANDS = 2
KILLING_HANDS = 3
# Before something else is tried in the place of what is not there.
NOTHING_SECONDS = 0.05
LOOK_SECONDS = 0.1


def deck(chance: random.Random, strikes: Mapping[str, tuple[int, Act]] = STRIKES) -> Iterator[str]:
    """Names of strikes for ever: each deck is used up before the next one is shuffled."""
    names = [name for name, (times, _) in strikes.items() for _ in range(times)]
    while True:
        chance.shuffle(names)
        yield from names


@dataclass(kw_only=True, slots=True)
class Series:
    """So many strikes of one deck, by several hands."""

    deck: Iterator[str]
    wanted: int
    hands: int
    begun: int = 0


@dataclass(kw_only=True)
class Nemesis:
    """Strikes `faults` times while the block runs; then everything is mended.

    With `kills` these come beside, and none of the faults is one.
    """

    machine: Machine
    diary: Diary
    open_runs: Callable[[], Sequence[RunHandle]]
    progress: Callable[[], float]
    """Which part of the work is done: of the strikes, no larger part has begun."""
    chance: random.Random
    faults: int
    kills: int = 0
    pause_seconds: float = 2.0
    """How long a hand rests at least; between a half and one and a half of it."""
    say: Callable[[str], None] = lambda line: None
    failure: BaseException | None = None
    _done: list[Strike] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> "Nemesis":
        """Begin."""
        self._series = [Series(deck=deck(self.chance), wanted=self.faults, hands=HANDS)]
        if self.kills:
            self._series = [
                Series(deck=deck(self.chance, KILLS), wanted=self.kills, hands=KILLING_HANDS),
                Series(deck=deck(self.chance, OTHERS), wanted=self.faults, hands=HANDS),
            ]
        self._scene = Scene(
            machine=self.machine,
            diary=self.diary,
            chance=self.chance,
            open_runs=self.open_runs,
            pause=self._over.wait,
        )
        self._threads = [
            threading.Thread(target=self._guarded, args=(series,), name=f"nemesis {number}.{hand}")
            for number, series in enumerate(self._series)
            for hand in range(series.hands)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and mend what is broken; raises what went wrong here."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self.machine.wires is not None:
            self.machine.wires.heal()
        if self.failure is not None:
            raise self.failure

    @property
    def is_over(self) -> bool:
        """Whether no strike will come any more."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def tally(self) -> Tally[str]:
        """How often each kind of strike was made; of several processes at once it is one."""
        at_once = {(strike.what.partition(":")[0], strike.at) for strike in list(self._done)}
        return Tally(kind for kind, _ in at_once)

    @property
    def made(self) -> dict[str, int]:
        """Strikes that were made: `kills` (of several processes at once: one) and `others`; and the `killed`."""
        kills = sum(times for name, times in self.tally.items() if name in KILLS)
        return {
            "kills": kills,
            "others": sum(self.tally.values()) - kills,
            "killed": sum(strike.what.partition(":")[0] in KILLS for strike in list(self._done)),
        }

    def strikes(self) -> list[Strike]:
        """Everything that was done, each until the pool that it concerned was served again."""
        killed = {strike.pid for strike in self._done if strike.pid is not None}
        return [self._mended(strike, killed) for strike in self._done]

    def _mended(self, strike: Strike, killed: set[int]) -> Strike:
        if strike.pid is None:
            return strike
        pool = pool_of(strike.what.partition(": ")[2])
        # Of several that were killed together none serves it, however late the look was that found it dead.
        together = {other.pid for other in self._done if other.pid in killed and other.at == strike.at}
        return replace(strike, until=self.diary.served_again(pool, strike.at, without=together))

    def _guarded(self, series: Series) -> None:
        try:
            while self._may_begin(series):
                self._strike_once(series)
        except BaseException as failure:  # noqa: BLE001 - raised again where the test sees it
            self.failure = failure
            self._over.set()

    def _may_begin(self, series: Series) -> bool:
        rested = self.pause_seconds * self.chance.uniform(0.5, 1.5)
        while not self._over.wait(rested):
            with self._guard:
                if series.begun == series.wanted:
                    return False
                if self.progress() >= series.begun / series.wanted:
                    series.begun += 1
                    return True
            rested = LOOK_SECONDS
        return False

    def _strike_once(self, series: Series) -> None:
        while not self._over.is_set():
            with self._guard:
                name = next(series.deck)
            try:
                made = STRIKES[name][1](self._scene)
            except (NothingThere, ProcessLookupError, Unavailable, BrokerAway, RedisConnectionError):
                # It died by itself, or Postgres or the broker is away: another strike's doing.
                self._over.wait(NOTHING_SECONDS)
                continue
            self._done += made
            for strike in made:
                self.say(f"{strike.what}" + (f", for {strike.until - strike.at:.1f} s" * (strike.until > strike.at)))
            return
