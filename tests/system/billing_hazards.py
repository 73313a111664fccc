"""The billing app, whose process dies after an effect when a test has ordered it: `celery -A billing_hazards`."""

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from billing.app import app
from billing.ledger import Ledger

ORDERED_VARIABLE = "BILLING_HAZARD"

__all__ = ["app"]


def _strike() -> None:
    """Obey the order in the file, once: `worker` dies whole, or only its `child`."""
    ordered = Path(os.environ[ORDERED_VARIABLE])
    try:
        victim = ordered.read_text()
        ordered.unlink()
    except FileNotFoundError:
        return
    if victim == "worker":
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _dangerous(effect: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(effect)
    def done(*arguments: Any) -> Any:
        given = effect(*arguments)
        _strike()
        return given

    return done


Ledger.pay = _dangerous(Ledger.pay)  # type: ignore[method-assign]
Ledger.mail = _dangerous(Ledger.mail)  # type: ignore[method-assign]
