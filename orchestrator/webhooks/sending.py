"""One attempt at one URL: a POST that ends in time, follows no redirect, and tells nothing of what came back.

What this does not cover: a tenant who may name any URL can make supervisors POST to hosts inside of your network. Cloud
metadata (link-local) addresses are always refused; set `CHARGEHAND_WEBHOOK_PRIVATE_ADDRESSES=false` to refuse private
and loopback ones too. The address that was checked is the one that is connected to.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from chargehand.orchestrator.errors import UserError

CONNECT_SECONDS = 5.0
# From the first look at the name to the last byte of the answer's head, however slowly it drips.
TOTAL_SECONDS = 15.0
USER_AGENT = "chargehand-webhooks/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What came of an attempt."""

    delivered: bool
    outcome: str
    """The status, or the kind of what went wrong; never a word of the answer."""


def check_url(url: str) -> str:
    """The URL; raises `UserError` unless it is a plain http or https one."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or any(character.isspace() or not character.isprintable() for character in url):
        raise UserError(f"{url!r} is no http or https URL; give one like https://example.org/hooks.")
    if parts.username is not None or parts.fragment:
        raise UserError(
            f"Webhook URL of {parts.hostname} has a user or a fragment; put a token into its path or query."
        )
    return url


def post(url: str, body: bytes, headers: Mapping[str, str], *, private: bool, seconds: float = TOTAL_SECONDS) -> Sent:
    """Send it; delivered means any 2xx. Never raises for what a server or a network can do."""
    parts = urlsplit(url)
    line = _Line()
    # A socket's time-out counts from each byte on; this one counts all of them.
    watchdog = threading.Timer(seconds, line.cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        line.stream = _connect(parts, private=private, seconds=min(CONNECT_SECONDS, seconds))
        line.stream.settimeout(seconds)
        if parts.scheme == "https":
            secured = ssl.create_default_context().wrap_socket(
                line.stream, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            line.stream = secured
            secured.do_handshake()
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        connection.sock = line.stream
        path = parts.path or "/"
        own = {"host": parts.netloc, "content-type": "application/json", "user-agent": USER_AGENT}
        connection.request(
            "POST",
            f"{path}?{parts.query}" if parts.query else path,
            body=body,
            headers={**headers, **own, "connection": "close"},
        )
        status = connection.getresponse().status
        return Sent(delivered=200 <= status < 300, outcome=str(status))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Sent(delivered=False, outcome="TimeoutError" if line.was_cut else type(error).__name__)
    finally:
        watchdog.cancel()
        line.close()


@dataclass(slots=True)
class _Line:
    """The connection of an attempt, which its watchdog may cut."""

    stream: socket.socket | None = None
    was_cut: bool = False

    def cut(self) -> None:
        self.was_cut = True
        if self.stream is not None:
            # Past TLS, which the other thread is in the middle of.
            with suppress(OSError):
                socket.socket.shutdown(self.stream, socket.SHUT_RDWR)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


class RefusedAddress(OSError):
    """The name leads to where webhooks must not."""


def _connect(parts: SplitResult, *, private: bool, seconds: float) -> socket.socket:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not may_be_reached(str(address[0]), private=private):
            raise RefusedAddress(f"{parts.hostname} leads to {address[0]}")
    # The very address that was looked at: a second look at the name could give another.
    return socket.create_connection((str(found[0][4][0]), port), timeout=seconds)


def may_be_reached(address: str, *, private: bool) -> bool:
    """Whether webhooks may go there; `private`: also to loopback and private networks."""
    found = ipaddress.ip_address(address.partition("%")[0])
    plain = getattr(found, "ipv4_mapped", None) or found
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified:
        return False
    return private or plain.is_global
