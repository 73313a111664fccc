"""The canvas as a real broker and a real worker run it."""

import gc
import threading
from collections.abc import Iterator, Sequence
from uuid import UUID, uuid4

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.result import AsyncResult

from chargehand.orchestrator import broker
from chargehand.orchestrator.canvas import Chain, Chord, Link, Pack
from chargehand.orchestrator.settings import Settings
from tests.conftest import WaitUntil

TENANT, RUN = uuid4(), uuid4()


class Floor:
    """What the tasks of a test have done, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._guard = threading.Lock()

    def note(self, what: str) -> None:
        with self._guard:
            self.done.append(what)


@pytest.fixture
def floor(redis_url: str) -> Iterator[tuple[Celery, Settings, Floor]]:
    settings, floor = Settings(), Floor()
    app = broker.make_app(settings, redis_url)

    @app.task(name=broker.task_name("audit"), shared=False)
    def run_step(tenant: str, run_id: str, version: int, step_id: str = "", step_ids: Sequence[str] = ()) -> None:
        for step in step_ids or [step_id]:
            floor.note(step)

    @app.task(name=broker.ADVANCE, shared=False)
    def advance(run_id: str) -> None:
        floor.note("bell")

    queues = [broker.queue_name(settings, pool) for pool in ("audit", "supervisor")]
    with start_worker(app, pool="threads", concurrency=4, perform_ping_check=False, queues=queues):
        yield app, settings, floor
    app.close()


def chain_of(*steps: UUID) -> Chain:
    return Chain(links=tuple(Link(step_id=step, pool="audit", label="audit/tests") for step in steps))


def test_a_chord_rings_once_when_all_its_chains_have_ended(
    floor: tuple[Celery, Settings, Floor], wait_until: WaitUntil
) -> None:
    app, settings, seen = floor
    steps = [uuid4() for _ in range(4)]
    chord = Chord(header=(chain_of(steps[0]), chain_of(steps[1]), chain_of(steps[2], steps[3])))

    assert broker.publish(app, settings, tenant=TENANT, run_id=RUN, emissions=[chord])

    wait_until(lambda: "bell" in seen.done, 60, "the chord's body")
    assert sorted(seen.done[:-1]) == sorted(str(step) for step in steps)
    assert seen.done.index(str(steps[2])) < seen.done.index(str(steps[3]))
    assert seen.done.count("bell") == 1


def test_a_chain_runs_its_links_in_order_and_then_rings(
    floor: tuple[Celery, Settings, Floor], wait_until: WaitUntil
) -> None:
    app, settings, seen = floor
    steps = [uuid4() for _ in range(3)]

    assert broker.publish(app, settings, tenant=TENANT, run_id=RUN, emissions=[chain_of(*steps)])

    wait_until(lambda: "bell" in seen.done, 60, "the chain's end")
    assert seen.done == [*(str(step) for step in steps), "bell"]


def test_a_broker_that_is_down_is_said_at_once(wait_until: WaitUntil) -> None:
    settings = Settings()
    app = broker.make_app(settings, "redis://127.0.0.1:1/0")
    assert not broker.ring_bell(app, settings, RUN)
    chord = Chord(header=(chain_of(uuid4()), chain_of(uuid4())))
    assert not broker.publish(app, settings, tenant=TENANT, run_id=RUN, emissions=[chord])
    app.close()


def test_a_pack_is_one_message_and_counts_as_one_part_of_a_chord(
    floor: tuple[Celery, Settings, Floor], wait_until: WaitUntil
) -> None:
    app, settings, seen = floor
    packed, alone = [uuid4() for _ in range(3)], uuid4()
    chord = Chord(header=(Pack(links=tuple(link for step in packed for link in chain_of(step).links)), chain_of(alone)))

    assert broker.publish(app, settings, tenant=TENANT, run_id=RUN, emissions=[chord])

    wait_until(lambda: "bell" in seen.done, 60, "the chord's body")
    assert sorted(seen.done[:-1]) == sorted(str(step) for step in (*packed, alone))


def test_a_pack_alone_rings_at_its_end(floor: tuple[Celery, Settings, Floor], wait_until: WaitUntil) -> None:
    app, settings, seen = floor
    packed = [uuid4() for _ in range(3)]
    pack = Pack(links=tuple(link for step in packed for link in chain_of(step).links))

    assert broker.publish(app, settings, tenant=TENANT, run_id=RUN, emissions=[pack])

    wait_until(lambda: "bell" in seen.done, 60, "the pack's bell")
    assert seen.done == [*(str(step) for step in packed), "bell"]


def test_a_published_chord_leaves_no_result_behind(
    floor: tuple[Celery, Settings, Floor], wait_until: WaitUntil
) -> None:
    # A supervisor publishes chords all day: one result a header, each with its subscription, would fill it.
    app, settings, _ = floor
    chord = Chord(header=tuple(chain_of(uuid4()) for _ in range(7)))
    assert broker.publish(app, settings, tenant=TENANT, run_id=RUN, emissions=[chord])

    def left() -> int:
        gc.collect()
        return sum(isinstance(one, AsyncResult) for one in gc.get_objects())

    # The worker of this process, which sends the bell, holds one of its own for a moment.
    wait_until(lambda: left() == 0, 60, "every result is gone")
