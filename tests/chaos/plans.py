"""Plans of scripts and agents whose effects are counted: by hand and by chance."""

import random
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from chaos.scripts import SCRIBBLE_RETRIES
from chargehand.memory.procedural import parse_role
from chargehand.orchestrator.plan import POOLS, CeleryTask, Plan, Pool, Step

# Three predecessors make lines, joins and fans in about equal parts.
MOST_PREDECESSORS = 3
# A step depends on one of those just before it: the graph is long as well as wide.
REACH = 12
# What follows a fan-out.
MOST_AFTER_THE_FAN = 20
# Of one of the scripts that share a message: a pack runs them one after the other.
MOST_SECONDS_IN_THE_FAN = 0.04

THEIR_QUEUE = "theirs"
THEIR_TASK = "theirs.deliver"
# A worker that dies takes its task along, which Celery has acknowledged when it began: the step sends it again.
RESEND_SECONDS = 3.0

READER = parse_role(
    """---
name: reader
description: Reads a file about a question; needs no embedder.
pool: audit
tier: small
tools: [read_file, search_text]
output: submit_answer
---
Answer the question from the repository.
""",
    origin="the role of the system tests",
)


def counted(key: str, *after: str, pool: Pool = "audit", seconds: float = 0.0) -> Step:
    """A step that counts."""
    return Step(key=key, kind="script", script="count", pool=pool, after=after, arguments={"seconds": seconds})


def held(key: str, *after: str, door: str, pool: Pool = "audit") -> Step:
    """A step that counts when the test opens its door."""
    return Step(key=key, kind="script", script="hold", pool=pool, after=after, arguments={"door": door})


def reader(key: str, *after: str, pool: Pool = "audit") -> Step:
    """An agent step of some turns; submit it with `roles=[READER]` and a workspace."""
    question: JsonValue = "Where is the password of the shop checked?"
    return Step(key=key, kind="agent", role="reader", pool=pool, after=after, arguments={"question": question})


def runner(key: str, *after: str, errands: Sequence[str], seconds: float, pool: Pool = "audit") -> Step:
    """An agent step that runs errands (`post`, `pay`), one a turn; submit it with `roles=[RUNNER]`."""
    arguments: dict[str, JsonValue] = {"errands": list(errands), "seconds": seconds}
    return Step(key=key, kind="agent", role="runner", pool=pool, after=after, arguments=arguments)


def delivered(key: str, *after: str) -> Step:
    """A step that is a task of `chaos.their_app`."""
    task = CeleryTask(task=THEIR_TASK, queue=THEIR_QUEUE, effect="idempotent", resend_seconds=RESEND_SECONDS)
    return Step(
        key=key, kind="celery_task", celery_task=task, after=after, arguments={"step": key}, deadline_seconds=120
    )


def scribbler(key: str, *after: str, pool: Pool = "audit") -> Step:
    """A step that commits to the workspace."""
    return Step(key=key, kind="script", script="scribble", pool=pool, after=after, retries=SCRIBBLE_RETRIES)


def random_plan(chance: random.Random, steps: int, *, seconds: float = 0.2) -> Plan:
    """A random acyclic graph of counted steps over the three pools."""
    return Plan.of(
        counted(key, *after, pool=chance.choice(POOLS), seconds=round(chance.uniform(0, seconds), 3))
        for key, after in _random_graph(chance, steps)
    )


def random_work(chance: random.Random, steps: int, *, seconds: float = 0.2) -> Plan:
    """The same with everything that a plan may hold: agents, effects of both kinds, commits, sandboxes, gates."""
    return Plan.of(_random_step(chance, key, after, seconds) for key, after in _random_graph(chance, steps))


def wide_work(chance: random.Random, steps: int, *, seconds: float = 0.2) -> Plan:
    """A fan-out of short scripts in one pool, which are packed; they meet in a join, and random work follows."""
    tail = min(MOST_AFTER_THE_FAN, steps // 5)
    pool, fan = chance.choice(POOLS), steps - tail - 2
    wide = [counted(f"w{number:04}", "start", pool=pool, seconds=_short(chance)) for number in range(fan)]
    after = [_random_step(chance, key, before or ["join"], seconds) for key, before in _random_graph(chance, tail)]
    return Plan.of([counted("start"), *wide, counted("join", *(step.key for step in wide)), *after])


def _short(chance: random.Random) -> float:
    return round(chance.uniform(0, MOST_SECONDS_IN_THE_FAN), 3)


def _random_graph(chance: random.Random, steps: int) -> Iterator[tuple[str, list[str]]]:
    keys = [f"s{number:04}" for number in range(steps)]
    for number, key in enumerate(keys):
        earlier = keys[max(0, number - REACH) : number]
        yield key, chance.sample(earlier, min(len(earlier), chance.choice((0, 1, 1, 1, 2, MOST_PREDECESSORS))))


def _random_step(chance: random.Random, key: str, after: Sequence[str], most_seconds: float) -> Step:
    pool, seconds = chance.choice(POOLS), round(chance.uniform(0, most_seconds), 3)
    kinds = {"count": 52, "deliver": 6, "scribble": 8, "enclose": 6, "run": 14, "read": 11, "gate": 3}
    (kind,) = chance.choices([*kinds], weights=[*kinds.values()])
    match kind:
        case "run":
            errands = chance.choices(("post", "pay"), weights=(2, 1), k=chance.randint(1, 3))
            step = runner(key, *after, errands=errands, seconds=seconds, pool=pool)
        case "read":
            step = reader(key, *after, pool=pool)
        case "scribble":
            step = scribbler(key, *after, pool=pool)
        case "gate":
            step = Step(key=key, kind="gate", after=tuple(after), instruction="Go on?", options=("approve", "reject"))
        case _:
            arguments: dict[str, JsonValue] = {"seconds": seconds}
            retries = SCRIBBLE_RETRIES if kind == "enclose" else 0
            step = Step(
                key=key,
                kind="script",
                script=kind,
                pool=pool,
                after=tuple(after),
                arguments=arguments,
                retries=retries,
            )
    # A step that fails ends most of its run, unless somebody also waits for failures.
    return step.model_copy(update={"join": chance.choice(("all", "all", "settled"))})
