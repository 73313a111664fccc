"""Signatures of webhooks, by the Standard Webhooks specification: HMAC-SHA256 over id, time and body; pure."""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping

from chargehand.orchestrator.errors import UserError

PREFIX = "whsec_"
SECRET_BYTES = 32
# The specification's bounds for a symmetric key.
LEAST_BYTES, MOST_BYTES = 24, 64
# A message older than this, or from the future, may be somebody's recording.
TOLERANCE_SECONDS = 300.0


def new_secret() -> str:
    """A fresh one: `whsec_` and base64."""
    return PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def check_secret(secret: str) -> str:
    """The secret; raises `UserError` for what is none."""
    _key(secret)
    return secret


def signed_headers(secret: str, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of the specification; `timestamp` in seconds since 1970."""
    signature = base64.b64encode(_digest(_key(secret), message_id, str(timestamp), body)).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def verify_webhook(secret: str, headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Whether a message that was received is ours and fresh; for the receiver, who passes the body as it came.

    `now`: seconds since 1970. Several signatures, as during a change of the secret, may stand in the header.
    """
    named = {name.lower(): value for name, value in headers.items()}
    message_id, sent, given = (named.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature"))
    if not message_id or not sent.isdecimal() or abs(now - int(sent)) > TOLERANCE_SECONDS:
        return False
    expected = base64.b64encode(_digest(_key(secret), message_id, sent, body)).decode()
    return any(hmac.compare_digest(one.encode(), f"v1,{expected}".encode()) for one in given.split())


def _digest(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise UserError(
            f"A webhook's secret is {PREFIX} and base64 of {LEAST_BYTES} to {MOST_BYTES} bytes; leave it out to have "
            "one made."
        )
    return key
