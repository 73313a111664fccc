"""Workers and supervisors as processes that run beside each other, and can die, freeze and lose their services."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from chargehand.orchestrator import heartbeat
from chargehand.orchestrator.connections import Connections, Row
from chargehand.orchestrator.errors import ChargehandError, Unavailable
from chargehand.orchestrator.supervisor.admit import SOLO
from chargehand.orchestrator.supervisor.dispatch import KIND
from chargehand.orchestrator.switches import FRESH_SECONDS, Switch, Switches
from chargehand.workers.executor import execute, execute_pack
from chargehand.workers.holds import Holds
from chargehand.workers.shop import Shop
from chargehand.workers.tasks import OUTAGE_PAUSE_SECONDS
from simulation import queueing, sending, statements, supervision, switching, watching
from simulation.broker import SUPERVISOR, Delivery
from simulation.clock import Fiber, Killed
from simulation.ledger import Effect
from simulation.tables import Transaction
from simulation.work import SCRIPTS, TOOLS, SimulatedModels, Unwatched

if TYPE_CHECKING:
    from simulation.world import World

T = TypeVar("T")

# A supervisor answers so many bells at once, beside its watch loop.
BELLS_AT_ONCE = 2
# A drained worker that is not done by then is killed.
GRACE_SECONDS = 10.0
RESTART_SECONDS = 2.0
# What Postgres does to a supervisor that stands still with a run locked.
IDLE_IN_TRANSACTION_SECONDS = 5.0


class OfProcess(Transaction):
    """A transaction in whose middle things go wrong."""

    def __init__(self, process: "Process") -> None:
        """It is under way until `end`."""
        super().__init__()
        self._process = process
        process.transactions.append(self)

    def point(self, where: str) -> None:
        """Others act; whoever is too late finds the connection gone."""
        self._process.point(where)
        if self.is_cut_off:
            raise self._process.outage()

    def end(self) -> None:
        """It has committed, or was rolled back."""
        self._process.transactions.remove(self)


class Outage(Exception):
    """Postgres does not answer a supervisor, or its answer is lost: SQLAlchemy's `OperationalError`."""


class Process:
    """Fibers that live and die together."""

    def __init__(self, world: "World", name: str) -> None:
        """It runs from now on."""
        self.world = world
        self.name = name
        self.is_alive = True
        self.is_frozen = False
        self._fibers: list[Fiber] = []
        self._later: list[Callable[[], None]] = []
        self.transactions: list[Transaction] = []
        """Those of several statements that are under way."""
        self.blind_until = 0.0
        """It cannot know what was changed before: it stood still, or had no Postgres."""

    # --- time

    def start(self, act: Callable[[], None]) -> None:
        """Run something beside everything else."""
        fiber = Fiber(self.world.clock, act, may_go_on=self._may_go_on)
        self._fibers = [one for one in self._fibers if not one.is_over]
        self._fibers.append(fiber)
        self.world.fibers[fiber._code] = (self, fiber)
        self.world.clock.after(0.0, fiber.resume)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let this process do something later, if it lives and is not frozen then."""

        def due() -> None:
            if self.is_frozen:
                self._later.append(due)
            elif self.is_alive:
                act()

        self.world.clock.after(seconds, due)

    def _may_go_on(self, fiber: Fiber) -> bool:
        if self.is_frozen:
            self._later.append(fiber.resume)
        return self.is_alive and not self.is_frozen

    @property
    def is_busy(self) -> bool:
        """Something of it has not come to its end."""
        return any(not fiber.is_over for fiber in self._fibers)

    def pass_time(self, tape: str, most_seconds: float, least_seconds: float = 0.0) -> None:
        """Called in a fiber: work for a while."""
        self.world.current_fiber().sleep(self.world.choices.between(tape, least_seconds, most_seconds))

    # --- faults

    def kill(self) -> None:
        """`SIGKILL`; called in one of its own fibers this does not come back."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.on_death()
        own: Fiber | None = None
        for fiber in self._fibers:
            if self.world.is_current(fiber):
                own = fiber
            else:
                fiber.kill()
        if own is not None:
            own.kill()

    def freeze(self, seconds: float) -> None:
        """`SIGSTOP`, and `SIGCONT` so much later."""
        if not self.is_alive or self.is_frozen:
            return
        self.is_frozen = True
        self.on_freeze()
        self.world.clock.after(seconds, self._thaw)
        self.world.clock.after(IDLE_IN_TRANSACTION_SECONDS, self._cut_off)

    def _cut_off(self) -> None:
        if self.is_frozen:
            for transaction in self.transactions:
                transaction.cut_off()

    def _thaw(self) -> None:
        self.is_frozen = False
        self.blind_until = self.world.clock.now
        later, self._later = self._later, []
        for act in later:
            self.world.clock.after(0.0, act)

    def on_death(self) -> None:
        """What others notice."""

    def on_freeze(self) -> None:
        """What others notice."""

    def transact(self, name: str, act: Callable[[], T], parameters: Mapping[str, Any] | None = None) -> T:
        """One transaction of this process, before and after which things go wrong."""
        world = self.world
        fault = world.nemesis.strikes_commit()
        self.pass_time("delays", world.conditions.slowest_statement_seconds, 0.0005)
        if fault in {"kill before", "freeze before"}:
            self._suffer(fault, name)
        if world.postgres_is_down or fault == "refused":
            self.on_outage(parameters)
            world.say("Postgres does not answer", statement=name, process=self.name)
            raise self.outage()
        try:
            result = act()
        except (ChargehandError, Killed, Outage):
            raise
        except Exception as error:
            # Production would take it for the step's fault.
            world.object_(f"{name} broke: {type(error).__name__}: {error}")
            raise
        world.on_commit()
        if fault in {"kill after", "freeze after"}:
            self._suffer(fault, name)
        if fault == "reply lost":
            self.on_outage(parameters)
            world.say("the reply of a commit is lost", statement=name, process=self.name)
            raise self.outage()
        return result

    def point(self, where: str) -> None:
        """In the middle of a transaction of this process."""
        world = self.world
        fault = world.nemesis.strikes_commit()
        self.pass_time("delays", world.conditions.slowest_statement_seconds, 0.0005)
        if fault in {"refused", "reply lost"} or world.postgres_is_down:
            raise self.outage()
        if fault:
            self._suffer(fault, where)

    def _suffer(self, fault: str, where: str) -> None:
        if fault.startswith("kill"):
            self.world.say("killed", process=self.name, at=f"{fault.removeprefix('kill ')} {where}")
            self.on_violence()
            self.kill()
        seconds = self.world.choices.between("faults", 1.0, 40.0)
        self.world.say("frozen", process=self.name, at=f"{fault.removeprefix('freeze ')} {where}", seconds=seconds)
        self.on_violence()
        self.freeze(seconds)
        self.world.current_fiber().sleep(0.0)

    def on_violence(self) -> None:
        """The nemesis is to blame for what is lost now."""

    def on_outage(self, parameters: Mapping[str, Any] | None) -> None:
        """The nemesis is to blame for what this statement leads to."""

    def outage(self) -> Exception:
        """What code sees of a Postgres that does not answer."""
        return Outage()


# --- workers ----------------------------------------------------------------------------------------------------------


class SimulatedConnections:
    """Stands in for `Connections`: production's statements, carried out in memory."""

    def __init__(self, worker: "Worker") -> None:
        """For one process."""
        self._worker = worker

    def run(self, tenant: UUID, statement: str, parameters: Mapping[str, Any]) -> Row | None:
        """The first row of a statement."""
        rows = self.rows(tenant, statement, parameters)
        return rows[0] if rows else None

    def rows(self, tenant: UUID, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        """All rows of a statement."""
        world = self._worker.world

        def act() -> list[Row]:
            found = statements.run(world.tables, tenant, statement, parameters)
            if found and "epoch" in parameters:
                world.rules.on_write(parameters["step"], parameters["epoch"])
            return found

        return self._worker.transact(statements.NAMES.get(statement, "a statement"), act, parameters)


class SimulatedHeartbeat:
    """Stands in for `Heartbeat`: two beats that miss a claim report it lost."""

    def __init__(self, worker: "Worker") -> None:
        """For one process."""
        self._worker = worker
        self.held: dict[tuple[UUID, int], Callable[[], None]] = {}
        self.epochs: dict[tuple[Fiber, UUID], int] = {}
        """Under which epoch a fiber works on a step."""
        self._missed: set[tuple[UUID, int]] = set()
        self._is_connected = False

    def hold(self, step_id: UUID, epoch: int, on_lost: Callable[[], None]) -> None:
        """Renew this claim from now on."""
        self.held[step_id, epoch] = on_lost
        self.epochs[self._worker.world.current_fiber(), step_id] = epoch
        self._worker.world.rules.on_attempt(step_id, epoch)

    def drop(self, step_id: UUID, epoch: int) -> None:
        """Stop renewing this claim."""
        self.held.pop((step_id, epoch), None)

    def beat(self) -> None:
        """Renew, say that the pool lives, and report what was missed twice."""
        worker, world = self._worker, self._worker.world
        pause = world.settings.lease_seconds * heartbeat.BEAT
        if world.postgres_is_down:
            self._is_connected = False
            pause = world.settings.lease_seconds * heartbeat.RETRY
        else:
            seconds = world.settings.lease_seconds
            missed = {lease for lease in self.held if not world.tables.renew(*lease, seconds)}
            for lease in missed & self._missed:
                self.held.pop(lease)()
            self._missed = missed - self._missed
            world.tables.say_alive(worker.name, worker.pool, worker.slots, anew=not self._is_connected)
            self._is_connected = True
        worker.after(min(heartbeat.LOOK_AGAIN_SECONDS, pause) if self._missed else pause, self.beat)


class Worker(Process):
    """A worker process of one pool; the code that runs a message is production's."""

    def __init__(self, world: "World", name: str, pool: str, slots: int) -> None:
        """It takes messages from now on."""
        super().__init__(world, name)
        self.pool, self.slots = pool, slots
        self.heartbeat = SimulatedHeartbeat(self)
        self._deliveries: list[Delivery] = []
        self.stopping = threading.Event()
        # Each stands in for what it is cast to, as far as an attempt uses it.
        stand_in: Any = cast(Any, None)
        self.shop = Shop(
            settings=world.settings,
            connections=cast(Connections, SimulatedConnections(self)),
            engine=cast(Any, self),
            heartbeat=cast(Any, self.heartbeat),
            holder=name,
            pool=pool,
            artifacts=stand_in,
            workspaces=Path("/nowhere"),
            scripts=SCRIPTS,
            tools=TOOLS,
            models=SimulatedModels(self),
            embedder=stand_in,
            recall=stand_in,
            progress=cast(Any, Unwatched()),
            hints=cast(Any, Unwatched()),
            ring=world.broker.ring,
            stopping=self.stopping,
            holds=Holds(Switches(self._read_switches, clock=lambda: world.clock.now)),
        )
        world.broker.listen(pool, self.poke)
        self.heartbeat.beat()
        self.after(0.0, self.poke)

    # --- messages

    def poke(self) -> None:
        """Take messages as long as there are slots."""
        while self.is_alive and not self.is_frozen and not self.stopping.is_set():
            if len(self._deliveries) >= self.slots:
                return
            delivery = self.world.broker.take(self.pool)
            if delivery is None:
                return
            self._deliveries.append(delivery)
            self.start(lambda taken=delivery: self._deal_with(taken))  # type: ignore[misc]

    def _deal_with(self, delivery: Delivery) -> None:
        message = delivery.message
        if self.stopping.is_set():
            self.world.broker.restore(delivery)
        else:
            try:
                became = self._run(delivery)
            except Unavailable:
                # Celery logs it, and acknowledges what has failed.
                became = "stop"
            if became == "again":
                self.world.current_fiber().sleep(OUTAGE_PAUSE_SECONDS)
                self.world.broker.restore(delivery)
            if became == "go_on":
                self.world.broker.follow(message)
            self.pass_time("delays", 0.01)
            self.world.broker.acknowledge(delivery)
        self._deliveries.remove(delivery)
        self.after(0.0, self.poke)

    def _run(self, delivery: Delivery) -> str:
        task = delivery.message.task
        assert task.tenant is not None
        if task.kind == "pack":
            return execute_pack(self.shop, tenant=task.tenant, run_id=task.run_id, step_ids=task.step_ids)
        return execute(self.shop, tenant=task.tenant, step_id=task.step_ids[0])

    def _read_switches(self) -> list[Switch]:
        return self.transact("switches", lambda: switching.listed(self.world.tables))

    # --- what its steps do

    def work(self, step: UUID, effect: str, key: str, seconds: float, fails: int, poison: bool) -> int:
        """The body of a script; gives how often it has begun."""
        world = self.world
        epoch = self.heartbeat.epochs[world.current_fiber(), step]
        world.rules.on_body(step, epoch=epoch, in_solo_pool=self.pool == SOLO)
        world.rules.fleet.on_use(step, "all", "", blind_until=self.blind_until)
        begun = world.ledger.bodies[step]
        world.say("runs", step, process=self.name)
        self.pass_time("work", seconds / 2, seconds / 4)
        if poison:
            world.say("takes its worker down", step, process=self.name)
            self.kill()
        if effect != "pure":
            world.rules.on_effect(Effect(step, effect, "script", key), effect)
        self.pass_time("work", seconds / 2, seconds / 4)
        if begun <= fails:
            raise RuntimeError("as planned")
        return begun

    def use(self, step: UUID, tool: str) -> None:
        """A tool begins."""
        self.world.rules.fleet.on_use(step, "tool", tool, blind_until=self.blind_until)

    def change(self, effect: Effect, kind: str) -> str:
        """The body of a tool."""
        self.use(effect.step, effect.tool)
        self.pass_time("work", 0.5)
        self.world.say(f"calls {effect.tool}", effect.step, process=self.name)
        self.world.rules.on_effect(effect, kind)
        self.pass_time("work", 0.5)
        return f"done {effect.use}"

    # --- its end

    def drain(self) -> None:
        """`SIGTERM`: take nothing new, hand back, end."""
        if not self.is_alive or self.stopping.is_set():
            return
        self.world.say("told to stop", process=self.name)
        self.stopping.set()
        self._end_when_idle(self.world.clock.now + GRACE_SECONDS)

    def _end_when_idle(self, deadline: float) -> None:
        if not self._deliveries:
            self.world.tables.pools.pop(self.name, None)
            self.kill()
        elif self.world.clock.now > deadline:
            self.on_violence()
            self.kill()
        else:
            self.after(0.2, lambda: self._end_when_idle(deadline))

    def on_death(self) -> None:
        """Its messages are given to others once they have not been heard of for long; init starts it anew."""
        self.world.broker.leave(self.pool, self.poke)
        for delivery in self._deliveries:
            self._restore_later(delivery)
        self.world.restart(self)

    def on_freeze(self) -> None:
        """Its messages are given to others if it lasts too long."""
        for delivery in self._deliveries:
            self._restore_later(delivery)

    def _restore_later(self, delivery: Delivery) -> None:
        def restore() -> None:
            if self.is_frozen or not self.is_alive:
                self.world.broker.restore(delivery)

        self.world.clock.after(self.world.settings.visibility_timeout_seconds, restore)

    def on_violence(self) -> None:
        """Whatever it holds is lost for no fault of a step."""
        for step, _epoch in self.heartbeat.held:
            self.world.ledger.violent_losses[step] += 1

    def on_outage(self, parameters: Mapping[str, Any] | None) -> None:
        """The step of the statement comes back by its lease."""
        # What was known last holds for as long as if it had been read.
        self.blind_until = self.world.clock.now + FRESH_SECONDS
        given = parameters or {}
        for step in [given["step"]] if "step" in given else given.get("steps", ()):
            self.world.ledger.violent_losses[step] += 1

    def outage(self) -> Exception:
        """What production raises for it."""
        return Unavailable("Postgres broke off")


# --- supervisors ------------------------------------------------------------------------------------------------------


class Supervisor(Process):
    """A supervisor process: production's `Supervisor`, statement by statement."""

    def __init__(self, world: "World", name: str) -> None:
        """It answers bells and watches from now on."""
        super().__init__(world, name)
        self._answering = 0
        world.broker.listen(SUPERVISOR, self._poke)
        self.start(self._watch_forever)
        self.start(self._dispatch_forever)
        self.after(0.0, self._poke)

    def _poke(self) -> None:
        while self.is_alive and not self.is_frozen and self._answering < BELLS_AT_ONCE:
            delivery = self.world.broker.take(SUPERVISOR)
            if delivery is None:
                return
            self._answering += 1
            self.start(lambda taken=delivery: self._deal_with(taken))  # type: ignore[misc]

    def _deal_with(self, delivery: Delivery) -> None:
        with suppress(Outage):
            self._answer(delivery.message.task.run_id)
        self.world.broker.acknowledge(delivery)
        self._answering -= 1
        self.after(0.0, self._poke)

    def _answer(self, run_id: UUID) -> None:
        """`Supervisor.answer`."""
        while True:
            if self._advance(run_id):
                self._admit()
            if sending.has_tasks(self.world.tables, run_id):
                self._dispatch(run_id)
            if not self.transact("has_rings", lambda: supervision.has_rings(self.world.tables, run_id)):
                return

    def _advance(self, run_id: UUID) -> bool:
        return self._transact("advance", lambda one: supervision.advance(self.world.tables, run_id, one))

    def _transact(self, name: str, act: Callable[[Transaction], T]) -> T:
        transaction = OfProcess(self)
        try:
            return self.transact(name, lambda: act(transaction))
        finally:
            transaction.end()

    def _admit(self) -> None:
        """`Supervisor.admit`: what is not published after the commit is left to the watch loop."""
        admitted = self._transact("admit", lambda one: supervision.admit(self.world.tables, one))
        for one in admitted:
            self.point("publish")
            self.world.broker.publish(one.tenant, one.run_id, one.emissions)

    def _dispatch(self, run_id: UUID | None = None) -> None:
        """`Dispatcher.dispatch`: whoever dies between the two commits has sent what nobody knows of."""
        tables = self.world.tables
        taken = self.transact("take_due", lambda: sending.take_due(tables, run_id))
        sent = []
        for message in taken:
            self.point("send")
            sent += [message] if self.world.their_app.take(message) else []
        if taken:
            self.transact("note_sent", lambda: sending.note_sent(tables, taken, sent))

    def _dispatch_forever(self) -> None:
        """`Supervisor.dispatch_forever`."""
        while True:
            self.world.current_fiber().sleep(self.world.settings.watch_interval_seconds)
            if any(row.spec.kind == KIND for row in self.world.tables.open_rows()):
                with suppress(Outage):
                    self._dispatch()

    def _watch_forever(self) -> None:
        """`Supervisor.watch_forever`."""
        while True:
            self.world.current_fiber().sleep(self.world.settings.watch_interval_seconds)
            try:
                self._watch()
            except Outage:
                continue

    def _watch(self) -> None:
        tables, settings = self.world.tables, self.world.settings
        self._part("recover", lambda: watching.recover(tables, settings))
        self._part("release_from_solo", lambda: watching.release_from_solo(tables))
        self._part("settle_late", lambda: watching.settle_late_answers(tables))
        self._part("warn", lambda: watching.warn(tables))
        self._part("expire", lambda: watching.expire(tables))
        woken = self._part("wake", lambda: watching.wake(tables)) or []
        broker = self.world.broker.sound()
        self._part("emit_again", lambda: watching.emit_again(tables, settings, broker))
        self._part("end_overdue", lambda: watching.end_overdue(tables))
        started = self._start_queued()
        rung = watching.old_rings(tables, settings)
        for run_id in dict.fromkeys([*started, *woken, *rung]):
            self._advance(run_id)
        if broker is not None and any(row.status == "ready" for row in tables.open_rows()):
            self._admit()

    def _start_queued(self) -> list[UUID]:
        """`start_queued`: the heads are read, and each is started by itself."""
        tables = self.world.tables
        heads = queueing.next_in_line(tables)
        if heads:
            self.point("start_queued")
        return [run for run in heads if self._part("start", lambda run=run: queueing.start(tables, run))]  # type: ignore[misc]

    def _part(self, name: str, act: Callable[[], T]) -> T | None:
        """A part of the round; one that finds nothing to do is over at once."""
        if self.world.postgres_is_down:
            raise Outage
        found = act()
        if not found:
            return None
        self.world.on_commit()
        fault = self.world.nemesis.strikes_commit()
        if fault.startswith(("kill", "freeze")):
            self._suffer(fault, name)
        if fault in {"refused", "reply lost"}:
            raise Outage
        self.pass_time("delays", self.world.conditions.slowest_statement_seconds, 0.0005)
        return found

    def on_death(self) -> None:
        """Init starts it anew; its bells come back late, which nobody needs."""
        self.world.broker.leave(SUPERVISOR, self._poke)
        self.world.restart(self)
