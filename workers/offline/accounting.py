"""Counts tokens and keeps the books of a prompt cache, as the real server does for money."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# English and code have about four bytes a token.
BYTES_PER_TOKEN = 4
# How far before a breakpoint an older entry is still found.
LOOK_BACK_BLOCKS = 20
TTL_SECONDS = 300.0
# A shorter prefix is silently not cached; the real figure differs by model.
MIN_PREFIX_TOKENS = 1024
# The cache forgets the oldest entries above this; an entry is 100 bytes.
MAX_ENTRIES = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Tokens of one request; `fresh` excludes both cache counters."""

    fresh: int
    written: int
    read: int

    @property
    def total(self) -> int:
        """All input tokens."""
        return self.fresh + self.written + self.read


def tokens_of(value: Any) -> int:
    """A plausible number of tokens of a JSON value."""
    return -(-len(_canonical(value)) // BYTES_PER_TOKEN)


class PromptCache:
    """Prefixes that were seen lately, by hash; safe to use from many threads."""

    def __init__(
        self, *, min_prefix_tokens: int = MIN_PREFIX_TOKENS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._min_prefix_tokens = min_prefix_tokens
        self._clock = clock
        self._expires: dict[str, float] = {}
        self._lock = threading.Lock()

    def count(self, request: Mapping[str, Any]) -> Counted:
        """Tokens of the request, read from and written to the cache at its breakpoints."""
        hashes: list[str] = []
        sums: list[int] = []
        breakpoints: list[int] = []
        running = hashlib.sha256(str(request.get("model")).encode())
        total = 0
        for index, (label, block) in enumerate(_blocks(request)):
            bare = {name: value for name, value in block.items() if name != "cache_control"}
            running.update(label.encode() + _canonical(bare))
            total += tokens_of(bare)
            hashes.append(running.hexdigest())
            sums.append(total)
            if block.get("cache_control"):
                breakpoints.append(index)
        if request.get("cache_control") and hashes:
            breakpoints.append(len(hashes) - 1)
        usable = sorted({index for index in breakpoints if sums[index] >= self._min_prefix_tokens})
        if not usable:
            return Counted(fresh=total, written=0, read=0)
        with self._lock:
            now = self._clock()
            hit = self._longest_hit(usable, hashes, now)
            read = sums[hit] if hit is not None else 0
            for index in usable if hit is None else [*usable, hit]:
                self._expires[hashes[index]] = now + TTL_SECONDS
            self._forget(now)
        end = sums[usable[-1]]
        return Counted(fresh=total - max(end, read), written=max(0, end - read), read=read)

    def _longest_hit(self, usable: list[int], hashes: list[str], now: float) -> int | None:
        for last in reversed(usable):
            for index in range(last, max(-1, last - LOOK_BACK_BLOCKS), -1):
                if self._expires.get(hashes[index], 0.0) > now:
                    return index
        return None

    def _forget(self, now: float) -> None:
        if len(self._expires) <= MAX_ENTRIES:
            return
        kept = sorted(((until, key) for key, until in self._expires.items() if until > now), reverse=True)
        self._expires = {key: until for until, key in kept[: MAX_ENTRIES // 2]}


def _blocks(request: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every block of the prompt in the order in which the cache sees them."""
    blocks: list[tuple[str, dict[str, Any]]] = [("tool", tool) for tool in request.get("tools") or ()]
    system = request.get("system")
    if isinstance(system, str):
        system = [{"type": "text", "text": system}]
    blocks += [("system", block) for block in system or ()]
    for message in request.get("messages") or ():
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        blocks += [(str(message["role"]), block) for block in content]
    return blocks


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
