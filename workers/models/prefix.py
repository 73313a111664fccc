"""What a server can do: which features are sent to it, and how its prompt cache behaves."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from chargehand.orchestrator.errors import InvalidSettings
from chargehand.orchestrator.facts import Usage
from chargehand.workers.models.interface import Block

log = logging.getLogger(__name__)

# Consecutive calls with a cacheable prefix and both counters at zero before it is said; the first may be a cold one.
SILENT_CALLS = 3
# Models remembered for that.
MAX_WATCHED = 64

Feature = Literal["cache_control", "strict_tools", "tool_choice", "count_tokens"]
ALL_FEATURES: frozenset[Feature] = frozenset({"cache_control", "strict_tools", "tool_choice", "count_tokens"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What one kind of server understands."""

    name: str
    features: frozenset[Feature] = ALL_FEATURES
    extra_body: Mapping[str, float] = field(default_factory=dict)
    """Sent with every request, for example a temperature, which Claude itself no longer takes."""
    max_output_tokens: int = 32_000
    """More is not asked for; it bounds the reservation too."""


PROFILES: Mapping[str, Profile] = {
    "anthropic": Profile(name="anthropic"),
    "llama.cpp": Profile(
        name="llama.cpp",
        features=frozenset({"tool_choice", "count_tokens"}),
        extra_body={"temperature": 0.0},
        max_output_tokens=8_192,
    ),
    "vllm": Profile(
        name="vllm",
        features=frozenset({"tool_choice", "count_tokens"}),
        extra_body={"temperature": 0.0},
        max_output_tokens=8_192,
    ),
    "sglang": Profile(name="sglang", max_output_tokens=8_192),
    "ollama": Profile(name="ollama", features=frozenset(), extra_body={"temperature": 0.0}, max_output_tokens=8_192),
    "lmstudio": Profile(name="lmstudio", features=frozenset({"tool_choice"}), max_output_tokens=8_192),
    "litellm": Profile(name="litellm"),
}
# Ports that these servers listen on unless told otherwise.
_PORTS: Mapping[int, str] = {
    8080: "llama.cpp",
    8000: "vllm",
    30000: "sglang",
    11434: "ollama",
    1234: "lmstudio",
    4000: "litellm",
}


def profile_for(base_url: str, named: str = "") -> Profile:
    """The profile of a server: by its name (`CHARGEHAND_MODEL_PROFILE`), else by the port of a known local server.

    Raises `InvalidSettings` for a name that does not exist. A server that nobody knows gets all that Messages has.
    """
    if named and named not in PROFILES:
        raise InvalidSettings(f"CHARGEHAND_MODEL_PROFILE is {named!r}; use one of {', '.join(sorted(PROFILES))}.")
    address = urlsplit(base_url)
    if not named and address.hostname in {"127.0.0.1", "localhost", "::1"}:
        named = _PORTS.get(address.port or 0, "")
    return PROFILES[named or "anthropic"]


def adapted(blocks: Sequence[Block], profile: Profile) -> list[Block]:
    """Blocks, tools or messages without what the server does not understand; the input is not changed."""
    drop = set()
    if "cache_control" not in profile.features:
        drop.add("cache_control")
    if "strict_tools" not in profile.features:
        drop.add("strict")
    if not drop:
        return [dict(block) for block in blocks]
    cleaned: list[Block] = []
    for block in blocks:
        kept = {name: value for name, value in block.items() if name not in drop}
        content = kept.get("content")
        if isinstance(content, list):
            kept["content"] = [
                {name: value for name, value in inner.items() if name not in drop} if isinstance(inner, dict) else inner
                for inner in content
            ]
        cleaned.append(kept)
    return cleaned


# From 512 to 4,096 tokens, differing by model; the strictest only makes the warning come later.
STRICTEST_MIN_PREFIX_TOKENS = 4_096


class CacheWatch:
    """Says once for each model that its prompt cache never answers; safe to use from many threads."""

    def __init__(self, min_prefix_tokens: Mapping[str, int] | None = None) -> None:
        self._min_prefix_tokens = dict(min_prefix_tokens or {})
        self._silent: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def saw(self, model: str, usage: Usage) -> bool:
        """Count one call with breakpoints; True when this one made the warning due."""
        shortest = self._min_prefix_tokens.get(model, STRICTEST_MIN_PREFIX_TOKENS)
        if usage.cache_read_tokens or usage.cache_write_tokens:
            with self._lock:
                self._silent.pop(model, None)
            return False
        if usage.input_tokens < shortest:
            return False
        with self._lock:
            count = self._silent.get(model, 0) + 1
            self._silent[model] = count
            self._silent.move_to_end(model)
            while len(self._silent) > MAX_WATCHED:
                self._silent.popitem(last=False)
        if count != SILENT_CALLS:
            return False
        log.warning(
            "prompt cache silent",
            extra={"model": model, "calls": count, "min_prefix_tokens": shortest},
        )
        return True
