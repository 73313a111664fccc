"""Strikes on the broker's messages: they come a hundred times, in another order, or never."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from chaos.evidence import Strike
from chaos.scene import SEARCH_SECONDS, SUPERVISOR, NothingThere, Scene
from chargehand.orchestrator import broker
from chargehand.orchestrator.plan import POOLS

COPIES = 100


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
