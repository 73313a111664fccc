"""A process whose clock is wrong: `python -m chaos.clock SECONDS MODULE ARG…` runs MODULE that far ahead of the time.

`time.time`, `time.time_ns` and the `now`, `utcnow` and `today` of `datetime` and `date` are ahead; `time.monotonic`,
which no clock setting moves, is not. What C libraries ask the kernel is not covered: libpq and hiredis date nothing.
"""

import ctypes
import datetime
import gc
import runpy
import sys
import time
from collections.abc import Callable

DAY_SECONDS = 86_400.0


def set_ahead(seconds: float) -> None:
    """Move this process's clock; to be called before anything else is imported that keeps a reference to it."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + round(seconds * 1e9)
    moment, day = datetime.datetime, datetime.date
    _replace(moment, "now", lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))
    _replace(moment, "today", lambda cls: cls.fromtimestamp(time.time()))
    _replace(moment, "utcnow", lambda cls: cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None))
    _replace(day, "today", lambda cls: cls.fromtimestamp(time.time()))


def _replace(owner: type, name: str, function: Callable[..., object]) -> None:
    # A subclass in its place would not be what C code makes, and `isinstance` would tell the two apart.
    gc.get_referents(vars(owner))[0][name] = classmethod(function)  # type: ignore[arg-type, index]
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))


def main() -> None:
    """Run the module that the arguments name."""
    set_ahead(float(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
