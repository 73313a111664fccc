"""Made-up names, records and the forms they are written in, so that no family leans on another's words."""

import json
import random
from collections.abc import Callable
from typing import Any

from loops.noise import listed
from loops.scene import Scene

Record = dict[str, Any]
Form = Callable[[Record], str]

_SYLLABLES = listed("vel mor ta rin ok ash du bel quo zan fi lur pem gri os tek ya nud sol ve kar mi thu ro")


def name(rng: random.Random, syllables: int = 3) -> str:
    """A name that nobody has."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(syllables)).capitalize()


def names(rng: random.Random, count: int) -> list[str]:
    """Different names."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(name(rng))
    return list(found)


def phrase(rng: random.Random, words: int = 5) -> str:
    """Words that were never seen in this order."""
    return " ".join(name(rng, rng.randint(2, 3)).lower() for _ in range(words))


def token(rng: random.Random, size: int = 10) -> str:
    """What a machine calls a thing."""
    return "".join(rng.choice("0123456789abcdefghjkmnpqrstvwxyz") for _ in range(size))


def record(rng: random.Random) -> Record:
    """A few fields."""
    return {"ref": token(rng, 6), "label": phrase(rng, 2), "amount": rng.randint(10, 99_999) / 100}


def form(rng: random.Random) -> Form:
    """One way to write a record, kept for a whole scene."""
    return rng.choice((_json, _indented, _xml, _pairs, _yaml, _table))


def _json(value: Record) -> str:
    return json.dumps(value, ensure_ascii=False)


def _indented(value: Record) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _xml(value: Record) -> str:
    inner = "".join(f"<{key}>{inner}</{key}>" for key, inner in value.items())
    return f'<?xml version="1.0"?><answer>{inner}</answer>'


def _pairs(value: Record) -> str:
    return ", ".join(f"{key}={inner}" for key, inner in value.items())


def _yaml(value: Record) -> str:
    return "\n".join(f"{key}: {inner}" for key, inner in value.items())


def _table(value: Record) -> str:
    return f"| {' | '.join(value)} |\n|{'---|' * len(value)}\n| {' | '.join(map(str, value.values()))} |"


def go_round(scene: Scene, times: int, shows: int, body: Callable[[int], None]) -> None:
    """A loop of so many rounds, and the round, counted from 0, at whose end a person sees it."""
    scene.loop_begins()
    for index in range(times):
        body(index)
        if index == shows:
            scene.loop_shows()


def prelude(scene: Scene, most: int = 3) -> None:
    """A few calls that get on."""
    rng = scene.rng
    writes = form(rng)
    for _ in range(rng.randint(0, most)):
        tool = rng.choice(("lookup", "open_document", "describe", "recall_note", "list_children"))
        scene.act(tool, {"subject": phrase(rng, 2)}, writes({**record(rng), "text": phrase(rng, rng.randint(3, 30))}))
