"""Logs of our processes: one line an event, its fields behind it, as words or as JSON."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from chargehand.orchestrator.settings import Settings

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "data", "taskName"}
_work: ContextVar[dict[str, str]] = ContextVar("work", default={})  # noqa: B039 - never changed in place


@contextmanager
def working_on(**fields: str) -> Iterator[None]:
    """Name these fields in every line that this thread logs in the block: the run, the step."""
    token = _work.set({**_work.get(), **fields})
    try:
        yield
    finally:
        _work.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What the line is about: the work it was logged in, then its own fields in the order they were given."""
    own = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    return {**_work.get(), **own}


class EventFormatter(logging.Formatter):
    """`12:00:00 INFO steps: step claimed run_id=… step_id=…`."""

    def format(self, record: logging.LogRecord) -> str:
        """The event and its fields."""
        line = super().format(record)
        return " ".join([line, *(f"{name}={value}" for name, value in fields_of(record).items())])


class JsonFormatter(logging.Formatter):
    """`{"at": …, "level": "INFO", "logger": …, "event": "step claimed", "run_id": …, "step_id": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The event, its fields, and the traceback if there is one, in one line."""
        line: dict[str, object] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in fields_of(record).items() if name not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(settings: Settings, level: int = logging.INFO) -> None:
    """Write events to standard error; Celery's own lines too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # One line a task sent is noise at a thousand tasks a second.
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)


def formatter(settings: Settings) -> logging.Formatter:
    """The formatter that the settings ask for."""
    if settings.log_format == "text":
        return EventFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    chosen = JsonFormatter()
    # As the line says: whatever the machine's own zone is.
    chosen.converter = time.gmtime
    return chosen
