"""What a user's own Celery app connects, so that its tasks answer the steps that wait for them.

    app = Celery("billing", broker=…)
    connect_celery(app)

Its tasks stay as they are. Tasks that no step has sent are let alone.
"""

import logging
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, current_task, signals
from sqlalchemy.orm import Session

from chargehand.memory.database import APP_ROLE, open_engine
from chargehand.orchestrator import broker, completion, endpoints
from chargehand.orchestrator.celery_tasks import Labels, UnfitResult, arguments_hash
from chargehand.orchestrator.completion import Completion, Received
from chargehand.orchestrator.errors import ChargehandError, Unavailable
from chargehand.orchestrator.sessions import open_session
from chargehand.orchestrator.settings import Settings, load_settings

log = logging.getLogger(__name__)

# The pauses between attempts to reach Postgres: a restart of it is waited out. Then the callback is lost, and the step
# learns from its deadline.
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
# More are never under way in one process.
MOST_REMEMBERED = 10_000
_RECEIVED = "chargehand_received"


def connect_celery(app: Celery, *, settings: Settings | None = None) -> "Callback":
    """Let the tasks of this app answer; called once where the app is made, in its workers' processes.

    Where Postgres is say `settings`, or `CHARGEHAND_DATABASE_URL`; with `CHARGEHAND_REDIS_URL` too, the run goes on at
    once instead of within a second. Nothing is connected before a task of a step has ended.
    """
    return Callback(app, settings)


def idempotency_key() -> str | None:
    """The key of the step whose task runs now: the same in each delivery, retry and sending; None outside of one."""
    labels = _labels(current_task.request) if current_task else None
    return labels.idempotency_key if labels is not None else None


class Callback:
    """The connected handlers; they live as long as this object's app."""

    def __init__(self, app: Celery, settings: Settings | None) -> None:
        """Connect them."""
        self._app, self._settings = app, settings
        self._connected: tuple[int, _Line] | None = None
        self._guard = threading.Lock()
        # Of a task whose process was killed Celery tells the id only.
        self._under_way: OrderedDict[str, Labels] = OrderedDict()
        # Celery keeps weak references; the app keeps this.
        app.chargehand_callback = self  # type: ignore[attr-defined]
        signals.task_received.connect(self._on_received)
        signals.task_prerun.connect(self._on_start)
        signals.before_task_publish.connect(self._on_publish)
        signals.task_success.connect(self._on_success)
        signals.task_failure.connect(self._on_failure)
        signals.task_revoked.connect(self._on_revoked)

    # --- what Celery tells

    def _on_received(self, request: Any = None, **_: Any) -> None:
        labels = Labels.read(request.request_dict, task_id=request.id) if request.app is self._app else None
        if labels is not None:
            with self._guard:
                self._under_way[request.id] = labels
                while len(self._under_way) > MOST_REMEMBERED:
                    self._under_way.popitem(last=False)

    def _on_start(self, task: Any = None, args: Any = (), kwargs: Any = None, **_: Any) -> None:
        if task.app is self._app and _labels(task.request) is not None:
            # Before the task has had a chance to change them.
            setattr(task.request, _RECEIVED, arguments_hash(args, kwargs or {}))

    def _on_publish(self, headers: Any = None, body: Any = None, **_: Any) -> None:
        """Before a task that retries itself is in the queue again: another worker may have it a moment later."""
        labels = Labels.read(headers, task_id=str(headers.get("id"))) if isinstance(headers, dict) else None
        task = current_task
        if labels is None or not task or self._of(task) != labels or not isinstance(body, tuple | list):
            return
        received, arguments = _received(task), arguments_hash(body[0], body[1])
        if arguments != received.arguments_hash:
            # A list or an object among them that the task has changed on its way goes along changed.
            self._tell(
                labels,
                lambda session: completion.note_change(session, labels, received=received, arguments_hash=arguments),
            )

    def _on_success(self, sender: Any = None, result: object = None, runtime: float | None = None, **_: Any) -> None:
        labels = self._of(sender)
        if labels is None:
            return
        told: dict[str, Any] = {"duration_ms": round((runtime or 0.0) * 1000)}
        try:
            told |= {"outcome": "succeeded", "result": completion.as_result(result)}
        except UnfitResult as error:
            told |= {"outcome": "failed", "error": str(error)}
        self._complete(labels, sender, told)

    def _on_failure(self, sender: Any = None, task_id: str = "", exception: object = None, **_: Any) -> None:
        if sender is None or sender.app is not self._app:
            return
        why = f"{type(exception).__name__}: {exception}"
        if isinstance(exception, WorkerLostError | TimeLimitExceeded):
            # Told by the parent of the process that was killed, in the middle of whatever it did.
            self._report_lost(self._under_way.get(task_id), why)
            return
        labels = self._of(sender)
        if labels is not None:
            self._complete(labels, sender, {"outcome": "failed", "error": why})

    def _on_revoked(self, sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:
        labels = _labels(request) if sender is not None and sender.app is self._app else None
        # Another copy of it may have run.
        why = "it expired before a worker began with it" if expired else "its worker was told to drop it"
        self._report_lost(labels, why)

    # --- what the step is told

    def _of(self, task: Any) -> Labels | None:
        return _labels(task.request) if task is not None and task.app is self._app else None

    def _complete(self, labels: Labels, task: Any, told: Mapping[str, Any]) -> None:
        received = _received(task)
        answer = Completion(by=_worker(task.request), retries=task.request.retries or 0, **told)

        self._tell(
            labels,
            lambda session: completion.complete(
                session,
                labels.tenant,
                run_id=labels.run_id,
                step=labels.step_id,
                completion=answer,
                received=received,
            ),
        )

    def _report_lost(self, labels: Labels | None, why: str) -> None:
        if labels is None:
            return
        known, by = labels, socket.gethostname()

        def report() -> None:
            self._tell(known, lambda session: completion.report_lost(session, known, by=by, why=why))

        try:
            # Told by the thread that feeds the whole worker: it must not wait for Postgres.
            self._line().aside.submit(report)
        except Unavailable as error:
            log.warning("loss not reported", extra={"step_id": str(known.step_id), "error": str(error)})

    def _tell(self, labels: Labels, write: Callable[[Session], bool]) -> None:
        said = {"run_id": str(labels.run_id), "step_id": str(labels.step_id)}
        with self._guard:
            self._under_way.pop(str(labels.task_id), None)
        for pause_seconds in (*RETRY_SECONDS, None):
            try:
                if not self._line().write(labels, write):
                    log.info("answered before", extra=said)
            except Unavailable as error:
                if pause_seconds is None:
                    log.exception("callback lost; the step learns from its deadline", extra=said)
                    return
                log.warning("callback waits for Postgres", extra={**said, "error": str(error)})
                time.sleep(pause_seconds)
            except ChargehandError as error:
                log.error("answer refused", extra={**said, "error": str(error)})
                return
            else:
                return

    def _line(self) -> "_Line":
        """One a process: a child that was forked must not write on its parent's connections."""
        with self._guard:
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = os.getpid(), _Line(self._settings or load_settings())
            return self._connected[1]


class _Line:
    """The way from a process of somebody else's fleet to us."""

    def __init__(self, settings: Settings) -> None:
        """Raises `Unavailable` when nothing says where Postgres is."""
        self._settings = settings
        self.aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chargehand-callback")
        """For what is told by a thread that has other work."""
        self._engine = open_engine(
            endpoints.database_url(settings),
            role=APP_ROLE,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            # That fleet may have a thousand processes: none keeps a connection to Postgres between two answers.
            keeps_connections=False,
        )
        self._bell: Celery | None = None
        with suppress(Unavailable):
            self._bell = broker.make_app(settings, endpoints.redis_url(settings))

    def write(self, labels: Labels, write: Callable[[Session], bool]) -> bool:
        """Commit what the step is told, and ring; False when it was told before. Raises `Unavailable`."""
        with open_session(self._engine, labels.tenant) as session:
            first = write(session)
        if self._bell is not None:
            broker.ring_bell(self._bell, self._settings, labels.run_id)
        return first


def _labels(request: Any) -> Labels | None:
    headers = getattr(request, "headers", None) or {}
    return Labels.read(headers, task_id=str(getattr(request, "id", "")))


def _received(task: Any) -> Received:
    return Received(task=task.name, arguments_hash=getattr(task.request, _RECEIVED, ""))


def _worker(request: Any) -> str:
    return str(getattr(request, "hostname", None) or socket.gethostname())
