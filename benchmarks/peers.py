"""A durable step of ours beside one of LangGraph and one of DBOS: the same Postgres, the same bytes, by turns.

The peers run their own loop. Where it would call the model (in LangGraph's node, between two steps of DBOS) a turn and
a script step of ours are run and timed instead, so that whatever else the machine does meets all of them.

That is done in two ways. *In blocks*: twenty steps of the peer, then twenty of ours, and so on, so that each works on
its own caches and waits for what it has itself left to the disk. *Step by step*: one of
each, so that ours also pay for what the peer's step has left behind, and the peer for ours. The targets hold for both.
"""

import base64
import importlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from benchmarks.figures import Figure, NotMeasured, percentile
from benchmarks.ground import Ground, make_floor_table, script_steps
from benchmarks.turn import FLOOR_INSERT, facts_of_a_turn, open_recorders
from chargehand.memory.database import SCHEMA
from chargehand.orchestrator.facts import StepFinished

DISTRIBUTIONS = ("dbos", "langgraph", "langgraph-checkpoint-postgres")
STEPS = 400
# The first steps of a block meet what the other side has left; in a median of twenty they do not count.
BLOCK_STEPS = 20
SHORT_BYTES = 2_000
LONG_BYTES = 5_000
# In the first steps connections, plans and caches are cold, everybody's.
WARM_UP_STEPS = 20
# The end of a long history, where it is longest.
END_STEPS = 50
SEED = 1

TARGET_DBOS = 0.4
TARGET_LANGGRAPH_SHORT = 0.8
TARGET_LANGGRAPH_LONG = 0.15
TARGET_STORED_MB = 3.0
BYTES_PER_MB = 1_000_000

_SIZE = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = %s
"""

# `steps(database_url, count=…, answer=…, between=…)`: seconds of each of the peer's own steps.
PeerSteps = Callable[..., list[float]]


def measure(ground: Ground, *, steps: int = STEPS, warm_up: int = WARM_UP_STEPS) -> Iterator[Figure]:
    """All figures of this module; raises `NotMeasured` where the peers are not installed."""
    dbos, langgraph = load_peers()
    make_floor_table(ground)
    compared = (
        ("dbos", dbos.steps, SHORT_BYTES, TARGET_DBOS),
        ("langgraph_short", langgraph.newest, SHORT_BYTES, TARGET_LANGGRAPH_SHORT),
        ("langgraph_delta", langgraph.deltas, LONG_BYTES, None),
        # Last, because the disk works for a while on what it leaves behind.
        ("langgraph_long", langgraph.appended, LONG_BYTES, TARGET_LANGGRAPH_LONG),
    )
    yield stored("turns", bytes_of_turns(ground, count=steps), target=TARGET_STORED_MB)
    for name, of_peer, size, target in compared:
        single = compare(ground, f"{name}_step_by_step", of_peer, count=steps, size=size, block=1)
        blocks = compare(ground, name, of_peer, count=steps, size=size, block=BLOCK_STEPS)
        yield from blocks.figures(name, since=warm_up, target=target)
        yield from single.figures(f"{name}_step_by_step", since=warm_up, target=target)
        if of_peer is langgraph.appended:
            yield from blocks.figures(f"{name}_end", since=steps - min(steps, END_STEPS))
    for name in ("langgraph_delta", "langgraph_long"):
        # The checkpointer's tables are alone in the database of their comparison.
        yield stored(name, schema_bytes(peer_url(ground, name), "public"))


def load_peers() -> tuple[ModuleType, ModuleType]:
    """The modules that run DBOS and LangGraph; raises `NotMeasured` with what is missing and how to get it."""
    missing = [name for name in DISTRIBUTIONS if not is_installed(name)]
    if missing:
        raise NotMeasured(
            f"The suite 'peers' needs {', '.join(missing)}, which nothing else here needs; `make bench` installs them "
            "(requirements-bench.lock) into an environment of its own, build/bench."
        )
    return importlib.import_module("benchmarks.dbos_steps"), importlib.import_module("benchmarks.langgraph_steps")


def is_installed(distribution: str) -> bool:
    """Whether the distribution is in this environment."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Seconds of each repetition of what ran by turns."""

    peer_steps: list[float]
    turns: list[float]
    script_steps: list[float]
    commits: list[float]

    def figures(self, name: str, *, since: int, target: float | None = None) -> Iterator[Figure]:
        """Medians from a step on, and what ours are of the peer's."""
        peer_ms, turn_ms, script_step_ms, commit_ms = (
            percentile(seconds[since:], 50) * 1000
            for seconds in (self.peer_steps, self.turns, self.script_steps, self.commits)
        )
        yield Figure(name=f"{name}_step_p50_ms", value=peer_ms, unit="ms")
        yield Figure(name=f"turn_beside_{name}_p50_ms", value=turn_ms, unit="ms")
        yield Figure(name=f"script_step_beside_{name}_p50_ms", value=script_step_ms, unit="ms")
        yield Figure(name=f"commit_beside_{name}_p50_ms", value=commit_ms, unit="ms")
        yield Figure(name=f"turn_over_{name}", value=turn_ms / peer_ms, unit="x", target=target)
        yield Figure(name=f"script_step_over_{name}", value=script_step_ms / peer_ms, unit="x", target=target)


def compare(ground: Ground, name: str, steps: PeerSteps, *, count: int, size: int, block: int) -> Comparison:
    """Run the peer in an empty database of the ground's server, and after each `block` of its steps as many of ours."""
    with psycopg.connect(ground.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"bench_{name}")))
        # What came before gets to the disk now, not at the expense of this.
        connection.execute("CHECKPOINT")
    with Ours(ground, count=count, size=size, block=block) as ours:
        seconds = steps(peer_url(ground, name), count=count, answer=texts(size), between=ours)
    return Comparison(peer_steps=seconds, turns=ours.turns, script_steps=ours.script_steps, commits=ours.commits)


class Ours:
    """What is run and timed between two steps of a peer: a turn, a script step and a bare commit."""

    def __init__(self, ground: Ground, *, count: int, size: int, block: int) -> None:
        """A claimed step for the turns, and a queued script for each of `count` calls; run a `block` of calls at once.

        What does not fill a block is run with the last call.
        """
        self._ground = ground
        self._count, self._block = count, block
        self._called = 0
        self._recorder = open_recorders(ground, 1)[0]
        self._scripts = ground.queued_run(*script_steps(count))
        self._answer = texts(size)
        self._connection = psycopg.connect(ground.database_url, autocommit=True, prepare_threshold=0)
        self.turns: list[float] = []
        self.script_steps: list[float] = []
        self.commits: list[float] = []

    def __enter__(self) -> "Ours":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def __call__(self) -> None:
        """One of each for each call, when a block of calls has come together."""
        self._called += 1
        if self._called % self._block == 0 or self._called == self._count:
            while len(self.turns) < self._called:
                self._one_of_each()

    def _one_of_each(self) -> None:
        answer, index = self._answer(), len(self.turns)
        request, response = facts_of_a_turn(index, answer)
        done = StepFinished(outcome="succeeded", result=answer)
        started = time.perf_counter()
        self._recorder.request([], request)
        self._recorder.respond(response)
        turned = time.perf_counter()
        self._ground.claim(self._scripts, f"work-{index}").finish(done)
        finished = time.perf_counter()
        self._connection.execute(FLOOR_INSERT, [answer])
        committed = time.perf_counter()
        self.turns.append(turned - started)
        self.script_steps.append(finished - turned)
        self.commits.append(committed - finished)


def bytes_of_turns(ground: Ground, *, count: int) -> int:
    """What all our tables and their indexes have grown by after as many turns of one step."""
    recorder = open_recorders(ground, 1)[0]
    answer = texts(LONG_BYTES)
    before = schema_bytes(ground.database_url, SCHEMA)
    for index in range(count):
        request, response = facts_of_a_turn(index, answer())
        recorder.request([], request)
        recorder.respond(response)
    return schema_bytes(ground.database_url, SCHEMA) - before


def texts(size: int) -> Callable[[], str]:
    """Gives a new text of `size` characters at each call; random ones, which Postgres cannot compress."""
    chance = random.Random(SEED)
    return lambda: base64.b64encode(chance.randbytes(size))[:size].decode()


def schema_bytes(database_url: str, schema: str) -> int:
    """Size of all tables of a schema, with their indexes and long values (`pg_total_relation_size`)."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(_SIZE, [schema]).fetchone()
    return int(row[0]) if row else 0


def stored(what: str, size: int, *, target: float | None = None) -> Figure:
    """A size as a figure."""
    return Figure(name=f"stored_{what}_mb", value=size / BYTES_PER_MB, unit="MB", target=target)


def peer_url(ground: Ground, name: str) -> str:
    """The database of the comparison of that name, on the server of the ground."""
    return make_url(ground.database_url).set(database=f"bench_{name}").render_as_string(hide_password=False)
