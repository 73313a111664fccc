"""A broker that loses, doubles and reorders: what Celery on Redis makes of an emission, as far as anybody relies on it.

What is sent is what `orchestrator/broker.py` sends: a chain carries the links that follow in the message of the first,
the last of them rings the bell; the lines of a chord are counted, and the last of them to be counted rings it.
"""

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from chargehand.orchestrator.canvas import Chord, Emission, Line, Pack
from chargehand.orchestrator.plan import POOLS
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.supervisor.sounding import Sounding
from simulation.choices import Choices
from simulation.clock import Clock

SUPERVISOR = "supervisor"


@dataclass(slots=True)
class Counter:
    """A chord's header in Redis."""

    parts: int
    counted: set[int] = field(default_factory=set)
    """Identities of what was counted: a message that is delivered twice counts once."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of Celery: a step, a pack, or the bell."""

    kind: Literal["step", "pack", "bell"]
    queue: str
    run_id: UUID
    tenant: UUID | None = None
    step_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A task on its way, and what comes after it."""

    identity: int
    """Celery's id of the task: the same in every copy of the message."""
    task: Task
    rest: tuple[Task, ...] = ()
    chord: int | None = None


@dataclass(slots=True)
class Delivery:
    """A message that a consumer holds and has not acknowledged."""

    message: Message
    tag: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """How badly the broker behaves."""

    lose: float = 0.0
    double: float = 0.0
    shuffle: bool = False
    """A message may overtake others."""
    most_delay_seconds: float = 0.05


class Broker:
    """Queues, what is not acknowledged, and counters; all of it may vanish."""

    def __init__(self, clock: Clock, choices: Choices, manners: Manners) -> None:
        """Empty."""
        self._clock = clock
        self._choices = choices
        self.manners = manners
        self.is_down = False
        self.whole_since: float | None = None
        """As a supervisor has noted it; gone with everything else."""
        self.queues: dict[str, deque[Message]] = defaultdict(deque)
        self._on_message: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self._unacknowledged: dict[int, Delivery] = {}
        self._chords: dict[int, Counter] = {}
        self._ids: Iterator[int] = itertools.count(1)
        self.sent = 0

    # --- sending

    def publish(self, tenant: UUID, run_id: UUID, emissions: Sequence[Emission]) -> bool:
        """Send what was admitted of a run; False when the broker does not take it."""
        if self.is_down:
            return False
        bell = Task("bell", SUPERVISOR, run_id)
        for emission in emissions:
            if isinstance(emission, Chord):
                chord = next(self._ids)
                self._chords[chord] = Counter(len(emission.header))
                for line in emission.header:
                    first, *rest = _tasks(tenant, run_id, line)
                    self._send(Message(next(self._ids), first, tuple(rest), chord))
            else:
                first, *rest = _tasks(tenant, run_id, emission)
                self._send(Message(next(self._ids), first, (*rest, bell)))
        return True

    def ring(self, run_id: UUID) -> bool:
        """Ask a supervisor to advance the run now; False when the broker does not answer."""
        if self.is_down:
            return False
        self._send(Message(next(self._ids), Task("bell", SUPERVISOR, run_id)))
        return True

    def follow(self, message: Message) -> None:
        """What Celery does when a task returns: send the next link, or count the line."""
        if self.is_down:
            return
        if message.rest:
            first, *rest = message.rest
            self._send(Message(next(self._ids), first, tuple(rest), message.chord))
        elif message.chord is not None:
            counter = self._chords.get(message.chord)
            if counter is None:
                return
            counter.counted.add(message.identity)
            if len(counter.counted) == counter.parts:
                del self._chords[message.chord]
                self._send(Message(next(self._ids), Task("bell", SUPERVISOR, message.task.run_id)))

    def _send(self, message: Message) -> None:
        self.sent += 1
        if self._choices.happens("broker", self.manners.lose):
            return
        copies = 2 if self._choices.happens("broker", self.manners.double) else 1
        for _ in range(copies):
            delay = self._choices.between("broker", 0.001, self.manners.most_delay_seconds)
            self._clock.after(delay, lambda: self._arrive(message))

    def _arrive(self, message: Message) -> None:
        queue = self.queues[message.task.queue]
        if self.manners.shuffle and queue and self._choices.happens("broker", 0.3):
            queue.appendleft(message)
        else:
            queue.append(message)
        self._tell(message.task.queue)

    def _tell(self, queue: str) -> None:
        for listener in list(self._on_message[queue]):
            listener()

    # --- receiving

    def listen(self, queue: str, listener: Callable[[], None]) -> None:
        """Call it whenever a message has come."""
        self._on_message[queue].append(listener)

    def leave(self, queue: str, listener: Callable[[], None]) -> None:
        """Stop calling it."""
        self._on_message[queue].remove(listener)

    def length(self, queue: str) -> int:
        """Messages that wait in a queue; none as long as the broker is down."""
        return 0 if self.is_down else len(self.queues[queue])

    def sound(self) -> Sounding | None:
        """What a supervisor finds, and the note that it leaves when there is none."""
        if self.is_down:
            return None
        if self.whole_since is None:
            self.whole_since = self._clock.now
        return Sounding(whole_since=self.whole_since, lengths={pool: self.length(pool) for pool in (*POOLS, SOLO)})

    def take(self, queue: str) -> Delivery | None:
        """The next message, or None."""
        if self.is_down or not self.queues[queue]:
            return None
        delivery = Delivery(self.queues[queue].popleft(), next(self._ids))
        self._unacknowledged[delivery.tag] = delivery
        return delivery

    def acknowledge(self, delivery: Delivery) -> None:
        """The message has been dealt with."""
        self._unacknowledged.pop(delivery.tag, None)

    def restore(self, delivery: Delivery) -> None:
        """Give a message to somebody else: it was rejected, or its consumer has not been heard of for too long."""
        if self._unacknowledged.pop(delivery.tag, None) is not None:
            self._arrive(delivery.message)

    # --- faults, and what can be seen

    def empty(self) -> None:
        """Lose everything, the counters of chords too."""
        self.whole_since = None
        self.queues.clear()
        self._unacknowledged.clear()
        self._chords.clear()

    def lose_chords(self) -> None:
        """Lose the counters only."""
        self._chords.clear()

    def __len__(self) -> int:
        """Messages that somebody may still get, or holds."""
        return sum(map(len, self.queues.values())) + len(self._unacknowledged)


def _tasks(tenant: UUID, run_id: UUID, line: Line) -> list[Task]:
    """One for each link of a chain, one for a whole pack."""
    if isinstance(line, Pack):
        return [Task("pack", line.links[0].pool, run_id, tenant, tuple(link.step_id for link in line.links))]
    return [Task("step", link.pool, run_id, tenant, (link.step_id,)) for link in line.links]
