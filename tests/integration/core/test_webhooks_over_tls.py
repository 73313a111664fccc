"""A receiver with a certificate of your own authority is told once your supervisors know the authority."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chargehand.orchestrator.webhooks.sending import Sent, post

TLS = Path(__file__).parents[2] / "data" / "tls"


@pytest.fixture
def receiver() -> Iterator[ThreadingHTTPServer]:
    """It shows a certificate for `localhost` that the system's authorities know nothing of."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    # With the request's own thread: a refused handshake must not stop the one that accepts.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def post_to(receiver: ThreadingHTTPServer, host: str) -> Sent:
    return post(f"https://{host}:{receiver.server_address[1]}/hooks", b"{}", {}, private=True, seconds=60.0)


def test_a_receiver_is_told_when_its_authority_is_known(
    receiver: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "authority.pem"))
    assert post_to(receiver, "localhost") == Sent(delivered=True, outcome="204")


def test_a_receiver_whose_authority_is_unknown_is_told_nothing(
    receiver: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert post_to(receiver, "localhost") == Sent(delivered=False, outcome="SSLCertVerificationError")


def test_a_certificate_for_another_name_is_refused(
    receiver: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "authority.pem"))
    assert post_to(receiver, "127.0.0.1") == Sent(delivered=False, outcome="SSLCertVerificationError")
