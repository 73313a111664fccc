"""What workers offer to plans: their scripts and tools, told by a process that imports them."""

import subprocess
import sys

from pydantic import BaseModel, ConfigDict, ValidationError

from chargehand.orchestrator.errors import Unavailable

# It imports analysers, an embedder's libraries, and the user's own modules.
TIMEOUT_SECONDS = 60.0
PROGRAM = "chargehand.workers.offers"
# What packages of users name in their `pyproject.toml`.
ENTRY_POINT_GROUPS = ("chargehand.scripts", "chargehand.tools")


class Offer(BaseModel):
    """A function that a plan or a role may name."""

    model_config = ConfigDict(frozen=True)

    effect: str
    parameters: tuple[str, ...]
    required: tuple[str, ...]
    takes_context: bool
    """It may see more of the run than its arguments."""


class Offers(BaseModel):
    """Scripts and tools by name, and the outputs that roles may end with."""

    model_config = ConfigDict(frozen=True)

    scripts: dict[str, Offer]
    tools: dict[str, Offer]
    outputs: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    """Installed packages whose scripts or tools cannot be loaded, and why."""


def ask_workers() -> Offers:
    """What workers that are started here offer; raises `Unavailable` when they cannot be imported."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", PROGRAM], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"Workers cannot be asked for their scripts: {error}.") from error
    try:
        # A module of the user may print while it is imported.
        return Offers.model_validate_json(done.stdout.rpartition("\n")[2])
    except ValidationError as error:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unavailable(f"Workers cannot be asked for their scripts: {said[-1]}") from error
