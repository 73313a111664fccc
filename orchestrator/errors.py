"""Every error a caller may meet, in one tree.

    ChargehandError
    ├── UserError                 the request is wrong: shown as one line, exit code 2, never a traceback
    │   ├── InvalidPlan           a cycle, an unknown role, a duplicate key, too many steps
    │   ├── InvalidGoal           empty or too long
    │   ├── InvalidBudget         zero, negative or not a number
    │   ├── InvalidWorkspace      not there, not a git repository, empty, unreadable
    │   ├── ConcurrencyConflict   another run has the concurrency key, and this one was not to wait
    │   ├── RunEnded              nothing of the run goes on that could be changed
    │   ├── InvalidSettings       a setting cannot be used
    │   └── NotFound              no such run, step, role or escalation
    ├── Unavailable               a service does not answer: try later, exit code 3
    │   └── ReplyLost             it broke off: what it was asked for may have been done all the same
    ├── RunFailed                 the run ended without success
    ├── RunCancelled              somebody stopped the run
    ├── WaitTimeout               the run had not ended when the caller stopped waiting
    ├── IllegalFact               a fact does not follow from the state it is applied to
    │   └── NewerVersion          it was written by a later version of this code
    ├── NothingToClaim            the step is not this worker's to run
    ├── Fenced                    this worker may not write to the step any more
    │   ├── LeaseLost             another claim has a newer epoch
    │   ├── StepCancelled         the step was cancelled while it ran
    │   └── StepPaused            the run was paused: hand the step back
    ├── BudgetExceeded            the call does not fit under the run's cap
    │   └── StepBudgetExceeded    it does not fit under its step's
    └── BudgetBusy                it does not fit now, but open reservations may settle

Three kinds are kept apart: *try later* (`Unavailable`, `BudgetBusy`), *tell the model* (raised by tools, see
`chargehand.workers.tools`), and *stop the run*. Catch where you can act.
"""

from collections.abc import Mapping


class ChargehandError(Exception):
    """Root of every error raised on purpose."""


class UserError(ChargehandError):
    """The request cannot be carried out as it was made; the message names the value and the remedy."""


class InvalidPlan(UserError):
    """The plan is not a graph that can run."""

    def __init__(self, message: str, *, steps: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.steps = steps
        """Keys that lead to the step that is wrong, from the outermost inwards; empty when it is no single one."""


class InvalidGoal(UserError):
    """The goal is empty or too long."""


class InvalidBudget(UserError):
    """The budget is not a positive amount."""


class InvalidWorkspace(UserError):
    """The workspace cannot be read as a git repository with a commit."""


class ConcurrencyConflict(UserError):
    """Another run under way has the concurrency key, and the request was to be refused then."""


class RunEnded(UserError):
    """The run is over: nothing of it goes on that could be changed."""


class InvalidSettings(UserError):
    """A setting has a value that cannot be used."""


class NotFound(UserError):
    """Nothing of that name exists for this tenant."""


class Unavailable(ChargehandError):
    """A service that is needed now does not answer."""


class ReplyLost(Unavailable):
    """A service broke off before it answered: nobody knows yet whether it did what it was asked for."""


class RunFailed(ChargehandError):
    """The run ended without success; `partial` is what its succeeded steps gave, by key, as far as it came."""

    def __init__(self, message: str, *, partial: Mapping[str, object] | None = None) -> None:
        """Say why, and give what there is."""
        super().__init__(message)
        self.partial = dict(partial or {})


class RunCancelled(ChargehandError):
    """Somebody stopped the run."""


class WaitTimeout(ChargehandError):
    """The run had not ended when the caller stopped waiting; it goes on."""


class IllegalFact(ChargehandError):
    """A fact does not follow from the state it is applied to."""


class NewerVersion(IllegalFact):
    """A fact was written by a later version of this code; whoever meets it leaves it to a process that knows it."""

    def __init__(self, message: str, *, version: int) -> None:
        super().__init__(message)
        self.version = version
        """What a process must know to read it."""


class NothingToClaim(ChargehandError):
    """The step is not this worker's to run: done, running elsewhere, or not admitted."""

    def __init__(self, message: str, *, ended: bool = False) -> None:
        super().__init__(message)
        self.ended = ended
        """The step is over: whatever waits behind it in a chain may go on."""


class Fenced(ChargehandError):
    """This worker may not write to the step any more."""


class LeaseLost(Fenced):
    """Another claim has a newer epoch; what this worker does from here on is not recorded."""


class StepCancelled(Fenced):
    """The step was cancelled while it ran."""


class StepPaused(Fenced):
    """The run was paused; hand the step back."""


class BudgetExceeded(ChargehandError):
    """The call does not fit under the run's cap, whatever still settles."""


class StepBudgetExceeded(BudgetExceeded):
    """It does not fit under the cap of its own step; the run may have more."""


class BudgetBusy(ChargehandError):
    """The call does not fit now, but open reservations may still settle."""
