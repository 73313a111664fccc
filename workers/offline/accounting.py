"""Counts tokens and keeps the books of a prompt cache, as the real server does for money.

A prefix is looked for when the request arrives and can be read once its answer has begun: N cold calls at once pay for
N writes. A breakpoint finds older entries up to twenty blocks before it. Another `tool_choice` makes the messages'
part of a prefix another one.
"""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# English and code have about four bytes a token.
BYTES_PER_TOKEN = 4
# How far before a breakpoint an older entry is still found.
LOOK_BACK_BLOCKS = 20
TTL_SECONDS = 300.0
HOUR_SECONDS = 3_600.0
# A shorter prefix is silently not cached; the real figure differs by model.
MIN_PREFIX_TOKENS = 1024
# The cache forgets the oldest entries above this; an entry is 100 bytes.
MAX_ENTRIES = 20_000
# Requests that a later one may be compared with.
MAX_REMEMBERED = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Tokens of one request; `fresh` excludes both cache counters."""

    fresh: int
    written: int
    read: int
    written_for_an_hour: int = 0
    """Those of `written` that are kept for an hour."""

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
        self._kept_seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def count(self, request: Mapping[str, Any]) -> Counted:
        """Tokens of the request, read from and written to the cache at its breakpoints, all at once."""
        counted = self.look(request)
        self.store(request)
        return counted

    def look(self, request: Mapping[str, Any]) -> Counted:
        """Tokens of the request as it arrives; what is read stays in the cache for as long again."""
        prompt = _Prompt(request, self._min_prefix_tokens)
        if not prompt.usable:
            return Counted(fresh=prompt.total, written=0, read=0)
        with self._lock:
            now = self._clock()
            hit = self._longest_hit(prompt.usable, prompt.hashes, now)
            if hit is not None:
                seconds = self._kept_seconds.get(prompt.hashes[hit], TTL_SECONDS)
                self._expires[prompt.hashes[hit]] = now + seconds
        read = prompt.sums[hit] if hit is not None else 0
        end = prompt.sums[prompt.usable[-1]]
        hour = max((prompt.sums[index] for index in prompt.usable if index in prompt.lasting), default=0)
        return Counted(
            fresh=prompt.total - max(end, read),
            written=max(0, end - read),
            read=read,
            written_for_an_hour=max(0, hour - read),
        )

    def store(self, request: Mapping[str, Any]) -> None:
        """The answer to the request has begun: its prefixes can be read from now on."""
        prompt = _Prompt(request, self._min_prefix_tokens)
        with self._lock:
            now = self._clock()
            for index in prompt.usable:
                seconds = HOUR_SECONDS if index in prompt.lasting else TTL_SECONDS
                self._kept_seconds[prompt.hashes[index]] = seconds
                self._expires[prompt.hashes[index]] = now + seconds
            self._forget(now)

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
        self._kept_seconds = {key: self._kept_seconds[key] for key in self._expires if key in self._kept_seconds}


class _Prompt:
    """A request as its cache sees it."""

    def __init__(self, request: Mapping[str, Any], min_prefix_tokens: int) -> None:
        self.hashes: list[str] = []
        self.sums: list[int] = []
        self.total = 0
        self.lasting: set[int] = set()
        breakpoints: list[int] = []
        running = hashlib.sha256(str(request.get("model")).encode())
        in_messages = False
        for index, (label, block) in enumerate(_blocks(request)):
            if label in ("user", "assistant") and not in_messages:
                in_messages = True
                running.update(_canonical(request.get("tool_choice")))
            bare = {name: value for name, value in block.items() if name != "cache_control"}
            running.update(label.encode() + _canonical(bare))
            self.total += tokens_of(bare)
            self.hashes.append(running.hexdigest())
            self.sums.append(self.total)
            mark = block.get("cache_control")
            if mark:
                breakpoints.append(index)
                if isinstance(mark, Mapping) and mark.get("ttl") == "1h":
                    self.lasting.add(index)
        if request.get("cache_control") and self.hashes:
            breakpoints.append(len(self.hashes) - 1)
        self.usable = sorted({index for index in breakpoints if self.sums[index] >= min_prefix_tokens})


class Diagnosis:
    """Remembers requests by the ids of their answers, and says in what a later one differs; any thread may use it."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, message_id: str, request: Mapping[str, Any]) -> None:
        """An answer was given to this request."""
        with self._lock:
            self._seen[message_id] = _parts(request)
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)

    def reason(self, request: Mapping[str, Any], counted: Counted) -> dict[str, Any] | None:
        """Why the prefix of the request before could not be read; None when it could, or there was none."""
        previous = (request.get("diagnostics") or {}).get("previous_message_id")
        if previous is None:
            return None
        with self._lock:
            before = self._seen.get(previous)
        if before is None:
            return {"type": "previous_message_not_found"}
        now = _parts(request)
        for part in ("model", "tools", "system"):
            if before[part] != now[part]:
                return {"type": f"{part}_changed", "cache_missed_input_tokens": max(0, before["tokens"] - counted.read)}
        if now["messages"][: len(before["messages"])] != before["messages"]:
            missed = max(0, before["tokens"] - counted.read)
            return {"type": "messages_changed", "cache_missed_input_tokens": missed}
        return {"type": "unavailable"} if before["tool_choice"] != now["tool_choice"] else None


def _parts(request: Mapping[str, Any]) -> dict[str, Any]:
    digests: dict[str, list[str]] = {"tool": [], "system": [], "message": []}
    tokens = 0
    for label, block in _blocks(request):
        bare = {name: value for name, value in block.items() if name != "cache_control"}
        part = label if label in ("tool", "system") else "message"
        digests[part].append(hashlib.sha256(label.encode() + _canonical(bare)).hexdigest())
        tokens += tokens_of(bare)
    return {
        "model": request.get("model"),
        "tools": digests["tool"],
        "system": digests["system"],
        "messages": digests["message"],
        "tool_choice": request.get("tool_choice"),
        "tokens": tokens,
    }


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
