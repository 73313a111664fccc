"""A clock that nobody waits for: what is due next happens next, and code that sleeps is a fiber that goes on later."""

import heapq
import itertools
from collections.abc import Callable

from greenlet import greenlet


class Killed(BaseException):
    """Thrown into the fibers of a process that dies: nothing that catches mistakes may catch it."""


class Clock:
    """Virtual seconds, and what is to happen when."""

    def __init__(self) -> None:
        """It is noon of no day."""
        self.now = 1_000.0
        self.happened = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._until = 0.0
        self._stopped = False
        self._hub: greenlet | None = None

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Let something happen then; of what is due at the same moment the first that was said happens first."""
        heapq.heappush(self._due, (max(when, self.now), next(self._order), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen so much later."""
        self.at(self.now + seconds, act)

    def run(self, until: float) -> None:
        """Let happen what is due before `until`, or before somebody says `stop`."""
        self._until, self._stopped, self._hub = until, False, greenlet.getcurrent()
        while self._due and self._due[0][0] <= until and not self._stopped:
            self.now, _, act = heapq.heappop(self._due)
            self.happened += 1
            act()
        if not self._stopped:
            self.now = until

    def stop(self) -> None:
        """Let nothing more happen."""
        self._stopped = True

    def passes_alone(self, seconds: float) -> bool:
        """Let the time pass if nothing else is due in it; then nobody has to take turns."""
        when = self.now + seconds
        if self._stopped or when > self._until or (self._due and self._due[0][0] <= when):
            return False
        self.now = when
        return True

    def let_others(self) -> None:
        """Go on with whatever is due; comes back when somebody switches to the caller's fiber again."""
        assert self._hub is not None
        self._hub.switch()


class Fiber:
    """Code of one process that runs beside others: production's own, which knows nothing of it."""

    def __init__(self, clock: Clock, act: Callable[[], None], *, may_go_on: Callable[["Fiber"], bool]) -> None:
        """`may_go_on` is asked whenever its time has come; who says no resumes it later."""
        self._clock = clock
        self._act = act
        self._may_go_on = may_go_on
        self._killed = False
        self.is_over = False
        self._code = greenlet(self._run)

    def resume(self) -> None:
        """Go on until it sleeps again."""
        if not self.is_over and self._may_go_on(self):
            self._code.parent = greenlet.getcurrent()
            self._code.switch()

    def sleep(self, seconds: float) -> None:
        """Called in the fiber: go on so much later."""
        if self._killed:
            raise Killed
        if seconds > 0.0 and self._clock.passes_alone(seconds):
            return
        self._clock.after(seconds, self.resume)
        self._clock.let_others()
        if self._killed:
            raise Killed

    def kill(self) -> None:
        """End it where it is; called by somebody else, or by itself."""
        if self.is_over:
            return
        self._killed = True
        if greenlet.getcurrent() is self._code:
            raise Killed
        if self._code:
            self._code.parent = greenlet.getcurrent()
            self._code.throw(Killed)
        self.is_over = True

    def _run(self) -> None:
        try:
            self._act()
        except Killed:
            pass
        finally:
            self.is_over = True
