"""What reserving and settling money adds to the two commits of a turn: the same turn with it and without, by turns.

Without money are the same two statements less the columns and the guard that are about it. A pair is one of each, in
alternating order, a millisecond apart, so that a slow moment of the disk or of the machine meets both. The difference
is far below the spread of single turns; what says most is the CPU time of the client and of its backend, which do not
count waiting.
"""

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from benchmarks.figures import Figure, percentile
from benchmarks.ground import LEASE_SECONDS, Ground, execute, script_steps
from benchmarks.turn import facts_of_a_turn
from chargehand.orchestrator import turns
from chargehand.orchestrator.steps import HeldStep

PAIRS = 3_000
WARM_UP_PAIRS = 100
# The spread of the figure is shown by as many parts of it.
PARTS = 10
TARGET_RATIO = 1.05
SEED = 1
NANOSECONDS = 1_000_000_000

_WITHOUT_MONEY = {
    "reserved_microusd = reserved_microusd + %(need)s, ": "",
    "AND allotment_microusd - spent_microusd - reserved_microusd >= %(need)s": "",
    "reserved_microusd = reserved_microusd - %(reserved)s, spent_microusd = spent_microusd + %(cost)s, ": "",
}
Statements = tuple[str, str]


@dataclass(kw_only=True, slots=True)
class Taken:
    """What each turn took, in seconds."""

    walls: list[float] = field(default_factory=list)
    client_cpu: list[float] = field(default_factory=list)
    backend_cpu: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> list[float]:
        """Of the client and its backend together."""
        return [mine + its for mine, its in zip(self.client_cpu, self.backend_cpu, strict=True)]


def measure(ground: Ground, *, pairs: int = PAIRS, warm_up: int = WARM_UP_PAIRS) -> Iterator[Figure]:
    """Medians of the paired ratios, by the wall and by CPU, and what both turns took."""
    with_money, without = by_turns(ground, pairs=pairs, warm_up=warm_up)
    walls, cpu = ratios(with_money.walls, without.walls), ratios(with_money.cpu, without.cpu)
    yield Figure(
        name="reserve_settle_overhead_ratio", value=statistics.median(walls), unit="ratio", target=TARGET_RATIO
    )
    yield Figure(
        name="reserve_settle_cpu_ratio",
        value=statistics.median(cpu),
        unit="ratio",
        target=TARGET_RATIO,
        durability="memory",
    )
    for name, of_pairs, kind in (("overhead", walls, "fsync"), ("cpu", cpu, "memory")):
        parts = [statistics.median(of_pairs[part::PARTS]) for part in range(min(PARTS, len(of_pairs)))]
        yield Figure(
            name=f"reserve_settle_{name}_ratio_least_of_parts", value=min(parts), unit="ratio", durability=kind
        )
        yield Figure(name=f"reserve_settle_{name}_ratio_most_of_parts", value=max(parts), unit="ratio", durability=kind)
    for name, taken in (("with", with_money), ("without", without)):
        yield Figure(name=f"turn_{name}_money_p50_ms", value=percentile(taken.walls, 50) * 1000, unit="ms")
        for who, seconds in (("client", taken.client_cpu), ("backend", taken.backend_cpu)):
            yield Figure(
                name=f"turn_{name}_money_{who}_cpu_p50_ms",
                value=percentile(seconds, 50) * 1000,
                unit="ms",
                durability="memory",
            )


def ratios(of: list[float], to: list[float]) -> list[float]:
    """Each as a multiple of its partner."""
    return [one / other for one, other in zip(of, to, strict=True)]


def by_turns(ground: Ground, *, pairs: int, warm_up: int) -> tuple[Taken, Taken]:
    """Turns with money and without, of one step, one pair after the other."""
    held = ground.claim(ground.queued_run(*script_steps(1)), "work-0")
    # As a draw would, once for all: what is measured is the turn inside its allotment.
    execute(
        ground.supervisor,
        "UPDATE steps SET allotment_microusd = allotment_microusd + 1000000000 WHERE id = :step",
        step=held.claim.step_id,
    )
    backend = Path(f"/proc/{backend_of(ground)}/schedstat")
    chance = random.Random(SEED)
    kinds = (True, False)
    taken = {has_money: Taken() for has_money in kinds}
    written = {has_money: statements(has_money=has_money) for has_money in kinds}
    for pair in range(warm_up + pairs):
        for has_money in chance.sample(kinds, 2):
            times = Taken() if pair < warm_up else taken[has_money]
            turn(held, written[has_money], times, backend, number=pair)
    assert backend_of(ground) == int(backend.parent.name), "the turns went through several connections"
    return taken[True], taken[False]


def statements(*, has_money: bool) -> Statements:
    """Commit 1 and 2 of one fact each, as they are or without what is about money."""
    request, settle = turns._REQUEST, turns._SETTLE
    if not has_money:
        for clause, instead in _WITHOUT_MONEY.items():
            assert clause in request + settle
            request, settle = request.replace(clause, instead), settle.replace(clause, instead)
    # Sent as they are, both: a turn that is alone shares its commit with nobody.
    return str(turns._for_facts(request, 1)), str(turns._for_facts(settle, 1))


def turn(held: HeldStep, written: Statements, times: Taken, backend: Path, *, number: int) -> None:
    """One turn, and what it took."""
    request, response = facts_of_a_turn(number)
    money = {"lease": LEASE_SECONDS, "need": 1, "reserved": 1, "cost": 1}
    backend_began = cpu_seconds(backend)
    cpu_began, began = time.thread_time(), time.perf_counter()
    held.commit(written[0], money, [request])
    held.commit(written[1], money, [response])
    times.walls.append(time.perf_counter() - began)
    times.client_cpu.append(time.thread_time() - cpu_began)
    times.backend_cpu.append(cpu_seconds(backend) - backend_began)


def backend_of(ground: Ground) -> int:
    """Process id of the server's process behind the connection that is used next."""
    row = ground.connections.run(uuid4(), "SELECT pg_backend_pid() AS pid", {})
    assert row is not None
    return int(row["pid"])


def cpu_seconds(schedstat: Path) -> float:
    """CPU time of a process so far, to the nanosecond (Linux)."""
    return int(schedstat.read_text().split()[0]) / NANOSECONDS
