"""Logs of our processes: one line an event, its fields behind it."""

import logging
import sys

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "data", "taskName"}


class EventFormatter(logging.Formatter):
    """`12:00:00 INFO steps: step claimed run_id=… step_id=…`."""

    def format(self, record: logging.LogRecord) -> str:
        """The event, then its extra fields in the order they were given."""
        line = super().format(record)
        fields = [f"{name}={value}" for name, value in record.__dict__.items() if name not in _STANDARD]
        return " ".join([line, *fields])


def configure_logging(level: int = logging.INFO) -> None:
    """Write events to standard error; Celery's own lines too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # One line a task sent is noise at a thousand tasks a second.
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
