"""Plans of counted scripts: by hand and by chance."""

import random

from pydantic import JsonValue

from chargehand.memory.procedural import parse_role
from chargehand.orchestrator.plan import POOLS, Plan, Pool, Step

# Three predecessors make lines, joins and fans in about equal parts.
MOST_PREDECESSORS = 3
# A step depends on one of those just before it: the graph is long as well as wide.
REACH = 12

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


def reader(key: str, *after: str) -> Step:
    """An agent step of some turns; submit it with `roles=[READER]` and a workspace."""
    question: JsonValue = "Where is the password of the shop checked?"
    return Step(key=key, kind="agent", role="reader", pool="audit", after=after, arguments={"question": question})


def random_plan(chance: random.Random, steps: int, *, seconds: float = 0.2) -> Plan:
    """A random acyclic graph of counted steps over the three pools."""
    made: list[Step] = []
    for number in range(steps):
        earlier = [step.key for step in made[-REACH:]]
        after = chance.sample(earlier, min(len(earlier), chance.choice((0, 1, 1, 1, 2, MOST_PREDECESSORS))))
        made.append(
            counted(f"s{number:04}", *after, pool=chance.choice(POOLS), seconds=round(chance.uniform(0, seconds), 3))
        )
    return Plan.of(made)
