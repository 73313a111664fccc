"""The HTTP server: Messages in, rules out."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chargehand.workers.offline import MODEL, NOTICE, batches
from chargehand.workers.offline.accounting import MIN_PREFIX_TOKENS, Counted, Diagnosis, PromptCache, tokens_of
from chargehand.workers.offline.batches import BatchStore
from chargehand.workers.offline.faults import Fault, FaultPlan, Ledger, UnknownFault
from chargehand.workers.offline.imitation import CLAUDE, Imitation, heard, in_prose, told
from chargehand.workers.offline.policies import answer
from chargehand.workers.offline.streaming import encoded, events_of
from chargehand.workers.offline.validation import GONE, complaint

log = logging.getLogger(__name__)

# The real server's limit of a request.
MAX_BODY_BYTES = 32 * 1024 * 1024
# An idle connection is closed after this; clients keep theirs alive for less.
IDLE_SECONDS = 300.0
PING_INTERVAL_SECONDS = 0.05
# A fault without a duration lasts this long.
FAULT_SECONDS = 30.0


class OfflineServer(ThreadingHTTPServer):
    """Serves until it is shut down; one thread a connection."""

    daemon_threads = True
    # Two hundred agents may connect at once.
    request_queue_size = 512

    def __init__(
        self,
        address: tuple[str, int],
        *,
        allow_faults: bool = False,
        ledger_path: Path | None = None,
        min_prefix_tokens: int = MIN_PREFIX_TOKENS,
        delay_seconds: float = 0.0,
        batch_seconds: float = 0.0,
        imitation: Imitation = CLAUDE,
    ) -> None:
        self.imitation = imitation
        self.allow_faults = allow_faults
        self.delay_seconds = delay_seconds
        self.batches = BatchStore(batch_seconds)
        self.faults = FaultPlan()
        self.ledger = Ledger(ledger_path)
        self.cache = PromptCache(min_prefix_tokens=min_prefix_tokens)
        self.diagnosis = Diagnosis()
        super().__init__(address, MessagesHandler)

    @property
    def base_url(self) -> str:
        """What `ANTHROPIC_BASE_URL` must be to reach this server."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event; anything else is."""
        log.debug("connection ended", exc_info=True, extra={"client": str(client_address)})


class MessagesHandler(BaseHTTPRequestHandler):
    """One connection."""

    server: OfflineServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Requests go to the debug log, not to standard error."""
        log.debug(format, *args)

    def do_GET(self) -> None:
        """Models, health, and the record of calls."""
        path = self.path.split("?")[0]
        if path == "/healthz":
            self._send(200, {"ok": True, "model": MODEL, "notice": NOTICE})
        elif path.startswith("/v1/models/"):
            self._send(200, _model_info(path.rsplit("/", 1)[-1]))
        elif path.startswith(batches.PATH) and self.server.imitation.has_batches:
            self._show_batches(path)
        elif path == "/_calls" and self.server.allow_faults:
            self._send(200, {"calls": self.server.ledger.calls()})
        else:
            self._fail(404, "not_found_error", f"No such page: {path}")

    def do_POST(self) -> None:
        """Messages, token counts and faults."""
        path = self.path.split("?")[0]
        if path.startswith(f"{batches.PATH}/") and path.endswith("/cancel") and self.server.imitation.has_batches:
            self._cancel_batch(path)
            return
        request = self._body()
        if request is _UNREADABLE:
            return
        if path == "/_faults" and self.server.allow_faults:
            try:
                self._send(200, {"faults": self.server.faults.replace(request)})
            except UnknownFault as error:
                self._fail(400, "invalid_request_error", str(error))
        elif path == "/v1/messages/count_tokens" and self.server.imitation.counts_tokens:
            wrong = complaint(request, counting=True)
            if wrong:
                self._fail(400, "invalid_request_error", wrong)
            else:
                self._send(200, {"input_tokens": _input_tokens(request)})
        elif path == "/v1/messages":
            self._messages(path, request)
        elif path == batches.PATH and self.server.imitation.has_batches:
            wrong = batches.wrong_with(request)
            if wrong:
                self._fail(400, "invalid_request_error", wrong)
            else:
                self._send(200, self.server.batches.make(request["requests"], self._batched))
        else:
            self._fail(404, "not_found_error", f"No such page: {path}")

    def _cancel_batch(self, path: str) -> None:
        length = self.headers.get("content-length", "0")
        # It says nothing, and must be read all the same: the next request stands behind it.
        self.rfile.read(min(int(length), MAX_BODY_BYTES) if length.isdigit() else 0)
        told = self.server.batches.cancel(path.removeprefix(f"{batches.PATH}/").removesuffix("/cancel"))
        if told is None:
            self._fail(404, "not_found_error", f"No such batch: {path}")
        else:
            self._send(200, told)

    def _show_batches(self, path: str) -> None:
        """The list, one batch, or its results as JSON lines."""
        url, store = self.server.base_url, self.server.batches
        if path == batches.PATH:
            limit = parse_qs(urlsplit(self.path).query).get("limit", ["20"])[0]
            self._send(200, store.listed(int(limit) if limit.isdigit() else 20, url))
            return
        name, _, part = path.removeprefix(f"{batches.PATH}/").partition("/")
        results = store.results(name) if part == "results" else None
        told = store.told(name, url) if not part else None
        if results is not None:
            self._send_lines(results)
        elif told is not None:
            self._send(200, told)
        else:
            self._fail(404, "not_found_error", f"No such batch, or it has not ended: {path}")

    def _send_lines(self, values: Sequence[Mapping[str, Any]]) -> None:
        body = b"".join(json.dumps(value).encode() + b"\n" for value in values)
        self.send_response(200)
        self._common_headers("application/x-jsonl")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _batched(self, request: Any) -> dict[str, Any]:
        """The result of one request of a batch; a fault that is due makes it fail, unbilled."""
        wrong = complaint(request)
        fault = self.server.faults.take(request) if not wrong and self.server.allow_faults else None
        if wrong or fault is not None:
            said = wrong or f"Injected fault: {fault.kind if fault else ''}"
            record = request if isinstance(request, dict) else {}
            self.server.ledger.record(batches.PATH, record, outcome="errored", billed=False)
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": said}}
            return {"type": "errored", "error": error}
        counted = self.server.cache.look(request)
        self.server.cache.store(request)
        message = message_for(request, counted)
        message["usage"]["service_tier"] = "batch"
        usage = message["usage"]
        self.server.ledger.record(
            batches.PATH,
            request,
            outcome="ok",
            billed=True,
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            cache_write_tokens=usage["cache_creation_input_tokens"],
            cache_read_tokens=usage["cache_read_input_tokens"],
        )
        return {"type": "succeeded", "message": message}

    def _messages(self, path: str, request: Any) -> None:
        ledger = self.server.ledger
        imitation = self.server.imitation
        if imitation.samples and isinstance(request, dict):
            request = {name: value for name, value in request.items() if name not in GONE}
        wrong = complaint(request)
        if not wrong and request["max_tokens"] == 0 and not imitation.prewarms:
            wrong = "max_tokens: Input should be greater than 0"
        if wrong:
            ledger.record(path, request if isinstance(request, dict) else {}, outcome="invalid", billed=False)
            self._fail(400, "invalid_request_error", wrong)
            return
        fault = self.server.faults.take(request) if self.server.allow_faults else None
        if fault is not None and self._refuse(path, request, fault):
            return
        request = heard(request, imitation)
        counted = self.server.cache.look(request)
        pause = self.server.delay_seconds + (fault.seconds if fault and fault.kind == "delay" else 0.0)
        if pause:
            time.sleep(pause)
        self.server.cache.store(request)
        message = message_for(request, counted, refuse=bool(fault and fault.kind == "refusal"))
        if request.get("diagnostics") is not None:
            message["diagnostics"] = {"cache_miss_reason": self.server.diagnosis.reason(request, counted)}
        self.server.diagnosis.remember(message["id"], request)
        usage = message["usage"]
        message = told(in_prose(message) if fault is not None and fault.kind == "prose" else message, imitation)
        ledger.record(
            path,
            request,
            outcome=fault.kind if fault else "ok",
            billed=True,
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            cache_write_tokens=usage["cache_creation_input_tokens"],
            cache_read_tokens=usage["cache_read_input_tokens"],
        )
        if fault is not None and fault.kind == "lost_after_billing":
            time.sleep(fault.seconds)
            self.close_connection = True
        elif request.get("stream"):
            self._stream(message, fault)
        elif fault is not None and fault.kind in {"cut_stream", "pings"}:
            self._cut(message)
        else:
            self._send(200, message)

    def _refuse(self, path: str, request: Mapping[str, Any], fault: Fault) -> bool:
        status, kind = {
            "rate_limited": (429, "rate_limit_error"),
            "overloaded": (529, "overloaded_error"),
            "server_error": (500, "api_error"),
        }.get(fault.kind, (0, ""))
        if not status:
            return False
        self.server.ledger.record(path, request, outcome=fault.kind, billed=False)
        headers = {}
        if fault.retry_after_seconds is not None:
            headers["retry-after"] = f"{fault.retry_after_seconds:g}"
        self._fail(status, kind, f"Injected fault: {fault.kind}", headers=headers)
        return True

    def _stream(self, message: Mapping[str, Any], fault: Fault | None) -> None:
        self.send_response(200)
        self._common_headers("text/event-stream; charset=utf-8")
        self.send_header("cache-control", "no-cache")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        events = list(events_of(message))
        if fault is not None and fault.kind == "cut_stream":
            self._chunk(b"".join(encoded(event) for event in events[: max(3, len(events) // 2)]))
            self.close_connection = True
            return
        if fault is not None and fault.kind == "pings":
            self._chunk(b"".join(encoded(event) for event in events[:2]))
            for ping in _pings(fault.seconds or FAULT_SECONDS):
                self._chunk(ping)
            self.close_connection = True
            return
        # One write for all: the events are there already, and a hundred small ones would cost a hundred system calls.
        self._chunk(b"".join(encoded(event) for event in events))
        self.wfile.write(b"0\r\n\r\n")

    def _cut(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        self.send_response(200)
        self._common_headers("application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _body(self) -> Any:
        """The request's JSON, or `_UNREADABLE` after an error was sent."""
        try:
            length = int(self.headers.get("content-length", ""))
        except ValueError:
            self.close_connection = True
            self._fail(411, "invalid_request_error", "content-length: Field required")
            return _UNREADABLE
        if not 0 <= length <= MAX_BODY_BYTES:
            self.close_connection = True
            self._fail(
                413, "request_too_large", f"The request has {length} bytes; at most {MAX_BODY_BYTES} are allowed."
            )
            return _UNREADABLE
        try:
            return json.loads(self.rfile.read(length))
        except (ValueError, RecursionError) as error:
            self._fail(400, "invalid_request_error", f"The request body is not valid JSON: {error}")
            return _UNREADABLE

    def _send(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value, ensure_ascii=False).encode(errors="replace")
        self.send_response(status)
        self._common_headers("application/json")
        self.send_header("content-length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def _common_headers(self, content_type: str) -> None:
        self.send_header("content-type", content_type)
        self.send_header("request-id", f"req_offline_{time.monotonic_ns()}")

    def _fail(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, {"type": "error", "error": {"type": kind, "message": message}}, headers)


_UNREADABLE = object()


def message_for(request: Mapping[str, Any], counted: Counted, *, refuse: bool = False) -> dict[str, Any]:
    """The whole response to a valid request; the same request gives the same blocks."""
    blocks = [] if request["max_tokens"] == 0 else answer(request)
    if refuse:
        blocks = [{"type": "text", "text": f"Refused by an injected fault ({NOTICE})."}]
    output_tokens = sum(tokens_of(block) for block in blocks)
    stop_reason = "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"
    if refuse:
        stop_reason = "refusal"
    elif output_tokens > request["max_tokens"]:
        # A cut tool call is no call: what fits of the text stays.
        text = " ".join(block["text"] for block in blocks if block["type"] == "text")
        blocks = [{"type": "text", "text": text[: request["max_tokens"] * 4] or "…"}] if request["max_tokens"] else []
        output_tokens, stop_reason = request["max_tokens"], "max_tokens"
    digest = hashlib.sha256(json.dumps([request.get("messages"), blocks], sort_keys=True).encode()).hexdigest()
    return {
        "id": f"msg_offline_{digest[:24]}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": counted.fresh,
            "cache_creation_input_tokens": counted.written,
            "cache_read_input_tokens": counted.read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": counted.written - counted.written_for_an_hour,
                "ephemeral_1h_input_tokens": counted.written_for_an_hour,
            },
            "output_tokens": output_tokens,
            "service_tier": "standard",
        },
    }


def _input_tokens(request: Mapping[str, Any]) -> int:
    return PromptCache().count(request).total


def _model_info(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": MODEL,
        "display_name": f"Rules for '{name}'; {NOTICE}",
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 1_000_000,
        "max_tokens": 128_000,
    }


def _pings(seconds: float) -> Iterator[bytes]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield encoded({"type": "ping"})
        time.sleep(PING_INTERVAL_SECONDS)
