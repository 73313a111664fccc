"""`python -m benchmarks [SUITE …]`: one JSON line a figure, and exit code 1 unless every promise is kept."""

import os
import sys
from collections.abc import Callable, Iterator

from benchmarks import (
    agents,
    api,
    breaker,
    browser,
    core,
    cost,
    episodes,
    fairness,
    fleet,
    handoff,
    idle,
    ingest,
    limits,
    linear,
    memory,
    money,
    peers,
    recovery,
    replay,
    reserving,
    routing,
    state,
    tenants,
    turn,
)
from benchmarks.figures import Figure, NotMeasured
from benchmarks.ground import Ground, open_ground

Suite = Callable[[], Iterator[Figure]]


def grounded(measure: Callable[[Ground], Iterator[Figure]]) -> Suite:
    """A suite on servers of its own."""

    def suite() -> Iterator[Figure]:
        with open_ground() as ground:
            yield from measure(ground)

    return suite


SUITES: dict[str, Suite] = {
    "turn": grounded(turn.measure),
    "core": grounded(core.measure),
    "cost": cost.measure,
    "linear": grounded(linear.measure),
    "agents": grounded(agents.measure),
    "api": grounded(api.measure),
    "browser": grounded(browser.measure),
    "peers": grounded(peers.measure),
    "replay": grounded(replay.measure),
    "state": grounded(state.measure),
    "ingest": grounded(ingest.measure),
    "episodes": grounded(episodes.measure),
    "breaker": breaker.measure,
    "routing": routing.measure,
    "fairness": grounded(fairness.measure),
    "fleet": fleet.measure,
    "handoff": handoff.measure,
    "limits": limits.measure,
    "money": grounded(money.measure),
    "reserving": grounded(reserving.measure),
    "recovery": recovery.measure,
    "idle": idle.measure,
    "memory": grounded(memory.measure),
    "tenants": grounded(tenants.measure),
}
# What needs something of the user's is measured only when it is named.
ON_REQUEST = {"memory"}


def main(names: list[str]) -> int:
    """Measure the suites named, or all that need nothing of the user's; gives the exit code."""
    unknown = sorted(set(names) - SUITES.keys())
    if unknown:
        print(f"Unknown benchmark {', '.join(unknown)}; there are: {', '.join(SUITES)}.", file=sys.stderr)
        return 2
    kept = True
    for name in names or [name for name in SUITES if name not in ON_REQUEST]:
        # Absolute times mean little without it.
        print(f"{name}: load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        try:
            for figure in SUITES[name]():
                print(figure.line(), flush=True)
                kept = kept and figure.ok is not False
        except NotMeasured as reason:
            print(reason, file=sys.stderr, flush=True)
            kept = False
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
