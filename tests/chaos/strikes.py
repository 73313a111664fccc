"""What can be done to a machine: each strike breaks one thing, waits if it has to, and mends it again."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import redis

from chaos.diary import Diary, pool_of
from chaos.evidence import Strike
from chaos.machine import Machine, until
from chaos.proxy import Link
from chargehand.orchestrator import broker
from chargehand.orchestrator.client import RunHandle
from chargehand.orchestrator.plan import POOLS

SUPERVISOR = "supervisor"
# Long enough past a lease that somebody else holds what the frozen process believes to hold.
FROZEN_LEASES = 1.7
# A supervisor that stands still inside a transaction is thrown out after 5 s.
FROZEN_SUPERVISOR_SECONDS = 7.0
# How long a strike looks for something to strike.
SEARCH_SECONDS = 3.0
COPIES = 100


class NothingThere(Exception):
    """What would be struck is not there, or is being struck already; something else is tried."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where a strike happens, and what it may draw on."""

    machine: Machine
    diary: Diary
    chance: random.Random
    open_runs: Callable[[], Sequence[RunHandle]]
    pause: Callable[[float], object]
    """Waits, but not beyond the end of the story."""
    _struck: set[str] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def only(self, *targets: str) -> Iterator[None]:
        """Have these for oneself: a thing that is broken twice at once is mended too early."""
        with self._guard:
            if self._struck & {*targets}:
                raise NothingThere
            self._struck.update(targets)
        try:
            yield
        finally:
            with self._guard:
                self._struck.difference_update(targets)

    def some(self, pools: Collection[str]) -> tuple[str, int]:
        """A process that is ready, of these pools; one that holds a step, if there is one."""
        ready = sorted(self.diary.ready(pools).items())
        busy = self.machine.holders() if ready else set()
        found = [(name, pid) for name, pid in ready if pid in busy] or ready
        if not found:
            raise NothingThere
        return self.chance.choice(found)


Act = Callable[[Scene], list[Strike]]
"""Gives what was done; raises `NothingThere`."""


# --- processes --------------------------------------------------------------------------------------------------------


def kill_worker(scene: Scene) -> list[Strike]:
    """SIGKILL of one process of a pool."""
    name, pid = scene.some(POOLS)
    return _kill(scene, {name: pid}, "kill worker")


def kill_pool(scene: Scene) -> list[Strike]:
    """SIGKILL of all processes of a pool at once."""
    name, _ = scene.some(POOLS)
    return _kill(scene, scene.diary.ready({pool_of(name)}), "kill pool")


def kill_supervisor(scene: Scene) -> list[Strike]:
    """SIGKILL of one supervisor, or of all."""
    name, pid = scene.some({SUPERVISOR})
    everybody = scene.chance.random() < 0.3
    return _kill(scene, scene.diary.ready({SUPERVISOR}) if everybody else {name: pid}, "kill supervisor")


def _kill(scene: Scene, victims: Mapping[str, int], what: str) -> list[Strike]:
    with scene.only(*victims):
        for pid in victims.values():
            os.kill(pid, signal.SIGKILL)
        now = time.time()
        return [Strike(what=f"{what}: {name}", at=now, until=now, pid=pid) for name, pid in victims.items()]


def stop_worker(scene: Scene) -> list[Strike]:
    """SIGTERM, as a deploy does it: it hands back what it holds."""
    name, pid = scene.some(POOLS)
    with scene.only(name):
        os.kill(pid, signal.SIGTERM)
        now = time.time()
        return [Strike(what=f"stop worker: {name}", at=now, until=now)]


def freeze_worker(scene: Scene) -> list[Strike]:
    """SIGSTOP past the lease, then SIGCONT."""
    name, pid = scene.some(POOLS)
    return _freeze(scene, name, pid, scene.machine.settings.lease_seconds * FROZEN_LEASES, "freeze worker")


def freeze_before_effect(scene: Scene) -> list[Strike]:
    """The same, while something that it has begun has not taken effect yet."""
    ledger, names = scene.machine.ledger, {pid: name for name, pid in scene.diary.ready(POOLS).items()}
    deadline = time.monotonic() + SEARCH_SECONDS
    while time.monotonic() < deadline:
        effects = {(effect.key, effect.pid) for effect in ledger.effects()}
        begun = [knock for knock in ledger.knocks() if (knock.key, knock.pid) not in effects and knock.pid in names]
        if begun:
            pid = begun[-1].pid
            seconds = scene.machine.settings.lease_seconds * FROZEN_LEASES
            return _freeze(scene, names[pid], pid, seconds, f"freeze before an effect ({begun[-1].name})")
        time.sleep(0.01)
    raise NothingThere


def freeze_supervisor(scene: Scene) -> list[Strike]:
    """SIGSTOP of a supervisor, perhaps inside a transaction."""
    name, pid = scene.some({SUPERVISOR})
    return _freeze(scene, name, pid, FROZEN_SUPERVISOR_SECONDS, "freeze supervisor")


def _freeze(scene: Scene, name: str, pid: int, seconds: float, what: str) -> list[Strike]:
    with scene.only(name):
        began = time.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            scene.pause(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return [Strike(what=f"{what}: {name}", at=began, until=time.time())]


# --- services ---------------------------------------------------------------------------------------------------------


def kill_valkey(scene: Scene) -> list[Strike]:
    """SIGKILL of Valkey, which comes back empty."""
    server = scene.machine.laptop.services.valkey
    assert server is not None
    with scene.only("valkey"):
        began = time.time()
        server.kill()
        try:
            scene.pause(scene.chance.uniform(0, 3))
        finally:
            server.restart()
        return [Strike(what="kill valkey", at=began, until=time.time())]


def stop_postgres(scene: Scene) -> list[Strike]:
    """An `immediate` shutdown: no checkpoint, every session broken off; then recovery from the WAL."""
    server = scene.machine.laptop.services.postgres
    assert server is not None
    with scene.only("postgres"):
        began = time.time()
        server.stop("immediate")
        try:
            scene.pause(scene.chance.uniform(0, 3))
        finally:
            server.restart()
        return [Strike(what="stop postgres", at=began, until=time.time())]


def fill_disk(scene: Scene) -> list[Strike]:
    """No byte is free where workspaces are made."""
    disk = scene.machine.disk
    if disk is None:
        raise NothingThere
    with scene.only("disk"):
        began = time.time()
        disk.fill()
        try:
            scene.pause(scene.chance.uniform(1, 4))
        finally:
            disk.free()
        return [Strike(what="fill disk", at=began, until=time.time())]


# --- wires ------------------------------------------------------------------------------------------------------------


def _wire(break_it: Callable[[Scene, Link], str], *, seconds: tuple[float, float], what: str) -> Act:
    """A strike on one link of a process that is ready, for so long."""

    def act(scene: Scene) -> list[Strike]:
        wires = scene.machine.wires
        if wires is None:
            raise NothingThere
        name, _ = scene.some((*POOLS, SUPERVISOR))
        links = wires.valkey if what.endswith("valkey") else wires.postgres
        with scene.only(f"wire of {name}"):
            began = time.time()
            detail = break_it(scene, links[name])
            try:
                scene.pause(scene.chance.uniform(*seconds))
            finally:
                links[name].heal()
            return [Strike(what=f"{what}: {name}{detail}", at=began, until=time.time())]

    return act


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


def lose_replies(scene: Scene) -> list[Strike]:
    """The next commits of a process are done, and it never hears of them."""
    wires = scene.machine.wires
    if wires is None:
        raise NothingThere
    name, _ = scene.some((*POOLS, SUPERVISOR))
    link = wires.postgres[name]
    with scene.only(f"wire of {name}"):
        began, before = time.time(), len(link.lost)
        times = scene.chance.randint(1, 4)
        link.lose_replies(times)
        with suppress(AssertionError):
            until(lambda: len(link.lost) == before + times, SEARCH_SECONDS)
        link.heal()
        lost = link.lost[before:]
        if not lost:
            raise NothingThere
        return [Strike(what=f"lose replies: {name} ({len(lost)})", at=began, until=time.time())]


# --- messages ---------------------------------------------------------------------------------------------------------


def duplicate_messages(scene: Scene) -> list[Strike]:
    """A hundred copies of a message that waits, or of one that was delivered long ago."""
    with scene.only("messages"), _valkey(scene) as client:
        began = time.time()
        waiting = {key: rows for key, rows in _queues(scene, client).items() if rows}
        if waiting:
            key = scene.chance.choice(sorted(waiting))
            client.rpush(key, *[scene.chance.choice(waiting[key])] * COPIES)
            return [Strike(what=f"duplicate messages: {key}", at=began, until=time.time())]
        steps = [(run, step.key) for run in scene.open_runs() for step in run.steps() if step.kind != "gate"]
        if not steps:
            raise NothingThere
        run, key = scene.chance.choice(steps)
        for _ in range(COPIES):
            scene.machine.send_again(run, key)
        return [Strike(what="duplicate messages: an old one", at=began, until=time.time())]


def reorder_messages(scene: Scene) -> list[Strike]:
    """All queues are shuffled."""
    with scene.only("messages"), _valkey(scene) as client:
        began = time.time()
        count = 0
        for key, rows in _found_waiting(scene, client, least=2).items():
            if len(rows) > 1:
                scene.chance.shuffle(rows)
                with client.pipeline(transaction=True) as pipe:
                    # What came or went meanwhile comes twice or not at all: that is this broker's way.
                    pipe.delete(key)
                    pipe.rpush(key, *rows)
                    pipe.execute()
                count += len(rows)
        return [Strike(what=f"reorder messages: {count}", at=began, until=time.time())]


def drop_messages(scene: Scene) -> list[Strike]:
    """All queues are emptied, and what was delivered is forgotten by the broker."""
    with scene.only("messages"), _valkey(scene) as client:
        began = time.time()
        prefix = scene.machine.settings.key_prefix
        waiting = _found_waiting(scene, client, least=1)
        for key in waiting:
            client.ltrim(key, 1, 0)
        client.delete(f"{prefix}.unacked", f"{prefix}.unacked_index")
        count = sum(map(len, waiting.values()))
        # They are sent again when nobody has claimed their steps for a while.
        return [Strike(what=f"drop messages: {count}", at=began, until=time.time() + _patience_seconds(scene))]


def _patience_seconds(scene: Scene) -> float:
    settings = scene.machine.settings
    return settings.unclaimed_seconds + settings.watch_interval_seconds


@contextmanager
def _valkey(scene: Scene) -> "Iterator[redis.Redis]":
    try:
        with scene.machine.redis() as client:
            yield client
    except (redis.RedisError, OSError) as error:
        # It is down right now; that is another strike's doing.
        raise NothingThere from error


def _queues(scene: Scene, client: "redis.Redis") -> dict[str, list[bytes]]:
    keys = [broker.queue_name(scene.machine.settings, pool) for pool in (*POOLS, SUPERVISOR)]
    return {key: client.lrange(key, 0, -1) for key in keys}


def _found_waiting(scene: Scene, client: "redis.Redis", *, least: int) -> dict[str, list[bytes]]:
    """The queues, once at least so many messages wait in one of them."""
    deadline = time.monotonic() + SEARCH_SECONDS
    while time.monotonic() < deadline:
        queues = _queues(scene, client)
        if any(len(rows) >= least for rows in queues.values()):
            return queues
        time.sleep(0.005)
    raise NothingThere


STRIKES: Mapping[str, tuple[int, Act]] = {
    # How often each is in a deck, and what it does.
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
    "cut postgres": (1, _wire(_cut, seconds=(0, 0), what="cut postgres")),
    "cut valkey": (1, _wire(_cut, seconds=(0, 0), what="cut valkey")),
    "delay postgres": (1, _wire(_delay, seconds=(1, 4), what="delay postgres")),
    "delay valkey": (1, _wire(_delay, seconds=(1, 4), what="delay valkey")),
    "half-close postgres": (1, _wire(_half_close, seconds=(1, 5), what="half-close postgres")),
    "half-close valkey": (1, _wire(_half_close, seconds=(1, 5), what="half-close valkey")),
    "silence postgres": (1, _wire(_silence, seconds=(2, 7), what="silence postgres")),
    "silence valkey": (1, _wire(_silence, seconds=(2, 7), what="silence valkey")),
    "lose replies": (3, lose_replies),
    "duplicate messages": (2, duplicate_messages),
    "reorder messages": (1, reorder_messages),
    "drop messages": (2, drop_messages),
}
