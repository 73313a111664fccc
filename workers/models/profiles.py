"""What each kind of server understands, as data, and what is therefore not sent to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from chargehand.orchestrator.errors import InvalidSettings
from chargehand.workers.models.interface import Block

Feature = Literal[
    "cache_control", "cache_ttl", "strict_tools", "tool_choice", "count_tokens", "prewarm", "diagnostics", "batches"
]
ALL_FEATURES: frozenset[Feature] = frozenset(
    {"cache_control", "cache_ttl", "strict_tools", "tool_choice", "count_tokens", "prewarm", "diagnostics", "batches"}
)
Structured = Literal["schema", "tool", "text"]
"""How a typed answer is asked for: by the server's JSON schema, by a tool that must be called, or in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What one kind of server understands."""

    name: str
    features: frozenset[Feature] = ALL_FEATURES
    structured: Structured = "schema"
    writes_calls: bool = False
    """Whether a model there may write down a call that it must make: its server does not always hold it to it."""
    extra_body: Mapping[str, float] = field(default_factory=dict)
    """Sent with every request, for example a temperature, which Claude itself no longer takes."""
    max_output_tokens: int = 32_000
    """More is not asked for; it bounds the reservation too."""


def _local(name: str, *features: Feature, structured: Structured) -> Profile:
    return Profile(
        name=name,
        features=frozenset(features),
        structured=structured,
        writes_calls=True,
        extra_body={"temperature": 0.0},
        max_output_tokens=8_192,
    )


PROFILES: Mapping[str, Profile] = {
    "anthropic": Profile(name="anthropic"),
    # Takes `output_config` and `cache_control` without a word, and does nothing with them.
    "llama.cpp": _local("llama.cpp", "tool_choice", "count_tokens", structured="tool"),
    "vllm": _local("vllm", "tool_choice", "count_tokens", structured="tool"),
    # The fullest of the local ones; refuses `max_tokens=0`.
    "sglang": Profile(
        name="sglang",
        features=frozenset({"cache_control", "strict_tools", "tool_choice", "count_tokens"}),
        max_output_tokens=8_192,
    ),
    # Knows neither `tool_choice` nor a token count: a typed answer is asked for in words.
    "ollama": _local("ollama", structured="text"),
    "lmstudio": _local("lmstudio", "tool_choice", structured="tool"),
    # Hands on to whatever stands behind it, which not always knows JSON schemas, and never our diagnostics.
    "litellm": Profile(
        name="litellm",
        features=frozenset({"cache_control", "cache_ttl", "strict_tools", "tool_choice", "count_tokens"}),
        structured="tool",
    ),
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


def profile_for(base_url: str, named: str = "", *, setting: str = "CHARGEHAND_MODEL_PROFILE") -> Profile:
    """The profile of a server: by its name, else by the port of a known local server.

    Raises `InvalidSettings` for a name that does not exist; `setting` is where it was read. A server that nobody knows
    gets all that Messages has.
    """
    if named and named not in PROFILES:
        raise InvalidSettings(f"{setting} is {named!r}; use one of {', '.join(sorted(PROFILES))}.")
    address = urlsplit(base_url)
    if not named and address.hostname in {"127.0.0.1", "localhost", "::1"}:
        named = _PORTS.get(address.port or 0, "")
    return PROFILES[named or "anthropic"]


def adapted(blocks: Sequence[Block], profile: Profile, *, cache_ttl: str = "5m") -> list[Block]:
    """Blocks, tools or messages without what the server does not understand; the input is not changed."""
    drop = set()
    if "cache_control" not in profile.features:
        drop.add("cache_control")
    if "strict_tools" not in profile.features:
        drop.add("strict")
    lasting = cache_ttl != "5m" and "cache_ttl" in profile.features
    if not drop and not lasting:
        return [dict(block) for block in blocks]

    def kept(block: Block) -> Block:
        rest = {name: value for name, value in block.items() if name not in drop}
        mark = rest.get("cache_control")
        if lasting and isinstance(mark, dict):
            rest["cache_control"] = {**mark, "ttl": cache_ttl}
        return rest

    cleaned: list[Block] = []
    for block in blocks:
        outer = kept(block)
        content = outer.get("content")
        if isinstance(content, list):
            outer["content"] = [kept(inner) if isinstance(inner, dict) else inner for inner in content]
        cleaned.append(outer)
    return cleaned
