"""Faults that a test asks for, and the record of calls that it counts."""

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

# rate_limited 429 · overloaded 529 · server_error 500 · refusal: stop reason · cut_stream: closed in the middle ·
# pings: a stream that never ends · delay: slow but right · lost_after_billing: paid for, and the answer never arrives ·
# prose: the tool call is written down as text
KINDS = (
    "rate_limited",
    "overloaded",
    "server_error",
    "refusal",
    "cut_stream",
    "pings",
    "delay",
    "lost_after_billing",
    "prose",
)
# Calls remembered for `GET /_calls`; the ledger file keeps all.
KEPT_CALLS = 10_000


class UnknownFault(ValueError):
    """The test asks for a fault that does not exist."""


@dataclass(kw_only=True, slots=True)
class Fault:
    """One way to fail, for the next calls."""

    kind: str
    times: int = 1
    """Calls that it still strikes; -1: all."""
    after: int = 0
    """Calls that pass unharmed before."""
    seconds: float = 0.0
    """delay, pings: how long; lost_after_billing: silence before the connection closes."""
    retry_after_seconds: float | None = None
    tool: str = ""
    """Only strikes requests that carry this tool; empty: every request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecord:
    """One call that arrived."""

    number: int
    at: float
    path: str
    model: str
    finish_tool: str
    prompt_hash: str
    """Hash of the body: two equal ones are one prompt that was sent twice."""
    stream: bool
    outcome: str
    billed: bool
    input_tokens: int = 0
    """As billed: without what was written to the cache or read from it."""
    output_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0


@dataclass(kw_only=True)
class FaultPlan:
    """The faults in force; each call takes at most one."""

    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def replace(self, wanted: Any) -> int:
        """Put these faults in the place of all others; raises `UnknownFault` and then changes nothing."""
        listed = wanted if isinstance(wanted, list) else [wanted]
        faults = []
        for one in listed:
            if not isinstance(one, dict) or one.get("kind") not in KINDS:
                raise UnknownFault(f"Fault {one!r} is unknown; known kinds: {', '.join(KINDS)}.")
            try:
                faults.append(Fault(**one))
            except TypeError as error:
                raise UnknownFault(f"Fault {one!r} has an unknown field: {error}.") from error
        with self._lock:
            self._faults = faults
        return len(faults)

    def take(self, request: Mapping[str, Any]) -> Fault | None:
        """The fault that strikes this call."""
        tools = {tool.get("name") for tool in request.get("tools") or ()}
        with self._lock:
            for fault in self._faults:
                if fault.times == 0 or (fault.tool and fault.tool not in tools):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.times > 0:
                    fault.times -= 1
                return fault
        return None


class Ledger:
    """Every call that arrived, in memory and, if asked for, in a file that outlives the server."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._calls: deque[CallRecord] = deque(maxlen=KEPT_CALLS)
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path else None

    def record(self, path: str, request: Mapping[str, Any], **facts: Any) -> CallRecord:
        """Write one call down; it is in the file before this returns."""
        names = [str(tool.get("name", "")) for tool in request.get("tools") or ()]
        body = json.dumps({name: value for name, value in request.items() if name != "stream"}, sort_keys=True)
        with self._lock:
            self._number += 1
            call = CallRecord(
                number=self._number,
                at=time.time(),
                path=path,
                model=str(request.get("model")),
                finish_tool=next((name for name in names if name.startswith("submit_")), ""),
                prompt_hash=hashlib.sha256(body.encode(errors="surrogatepass")).hexdigest(),
                stream=bool(request.get("stream")),
                **facts,
            )
            self._calls.append(call)
            if self._file is not None:
                self._file.write(json.dumps(asdict(call)) + "\n")
                self._file.flush()
        return call

    def calls(self) -> list[dict[str, Any]]:
        """The last calls, oldest first."""
        with self._lock:
            return [asdict(call) for call in self._calls]
