"""Strikes on processes, servers and the disk: killed, frozen, told to stop, started again empty, filled up."""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress

from chaos.diary import pool_of
from chaos.evidence import Strike
from chaos.scene import SEARCH_SECONDS, SUPERVISOR, NothingThere, Scene
from chargehand.orchestrator.plan import POOLS

# Long enough past a lease that somebody else holds what the frozen process believes to hold.
FROZEN_LEASES = 1.7
# A supervisor that stands still inside a transaction is thrown out after 5 s.
FROZEN_SUPERVISOR_SECONDS = 7.0
# What began longer ago has taken effect, or never will.
BEGUN_SECONDS = 30.0
# What the world does again when it is done again.
EFFECTFUL = frozenset({"pay", "deliver"})


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
        begun = [knock for knock in ledger.begun(within_seconds=BEGUN_SECONDS) if knock.pid in names]
        if begun:
            # Rather one that cannot be told from its repetition.
            chosen = max(begun, key=lambda knock: knock.name in EFFECTFUL)
            seconds = scene.machine.settings.lease_seconds * FROZEN_LEASES
            what = f"freeze before an effect ({chosen.name})"
            return _freeze(scene, names[chosen.pid], chosen.pid, seconds, what)
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
