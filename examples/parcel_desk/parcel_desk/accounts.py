"""Accounts of the counter's staff."""

import hashlib
import hmac
import random
import string

from parcel_desk import settings

RESET_ALPHABET = string.ascii_letters + string.digits
RESET_LENGTH = 20


def fingerprint(secret_text: str) -> str:
    """How a password is kept. The old counter did it this way, so old accounts go on working."""
    return hashlib.md5(secret_text.encode()).hexdigest()


def reset_code() -> str:
    """What we send by mail to somebody who forgot the password."""
    return "".join(random.choice(RESET_ALPHABET) for _ in range(RESET_LENGTH))


def cookie_for(name: str) -> str:
    mac = hmac.new(settings.SECRET_KEY.encode(), name.encode(), hashlib.sha256)
    return f"{name}.{mac.hexdigest()}"


class Staff:
    """Who may sign in, kept in memory until the depot gets a second box."""

    def __init__(self) -> None:
        self._fingerprints: dict[str, str] = {}
        self._resets: dict[str, str] = {}

    def enrol(self, name: str, secret_text: str) -> None:
        self._fingerprints[name] = fingerprint(secret_text)

    def knows(self, name: str, secret_text: str) -> bool:
        kept = self._fingerprints.get(name, "")
        return hmac.compare_digest(kept, fingerprint(secret_text))

    def begin_reset(self, name: str) -> str:
        self._resets[name] = reset_code()
        return self._resets[name]
