"""Webhooks are signed as the Standard Webhooks specification says, and what may be reached is what is meant."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from chargehand.orchestrator.errors import UserError
from chargehand.orchestrator.facts import RunFinished
from chargehand.orchestrator.webhooks.payload import payload
from chargehand.orchestrator.webhooks.sending import check_url, may_be_reached
from chargehand.orchestrator.webhooks.signing import check_secret, new_secret, signed_headers, verify_webhook

# The specification's own example: reference libraries give this signature for it.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_is_that_of_the_reference_libraries() -> None:
    headers = signed_headers(SECRET, message_id=MESSAGE_ID, timestamp=TIMESTAMP, body=BODY)
    assert headers == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": str(TIMESTAMP),
        "webhook-signature": SIGNATURE,
    }
    assert verify_webhook(SECRET, headers, BODY, now=TIMESTAMP + 299)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("webhook-id", "msg_other"),
        ("webhook-timestamp", str(TIMESTAMP + 1)),
        ("webhook-timestamp", "soon"),
        ("webhook-signature", SIGNATURE.replace("g0", "h0")),
        ("webhook-signature", SIGNATURE.replace("v1,", "v2,")),
        ("webhook-signature", ""),
    ],
)
def test_what_was_changed_on_the_way_is_refused(header: str, value: str) -> None:
    headers = signed_headers(SECRET, message_id=MESSAGE_ID, timestamp=TIMESTAMP, body=BODY)
    assert not verify_webhook(SECRET, {**headers, header: value}, BODY, now=TIMESTAMP)


def test_another_body_an_old_message_and_another_secret_are_refused() -> None:
    headers = signed_headers(SECRET, message_id=MESSAGE_ID, timestamp=TIMESTAMP, body=BODY)
    assert not verify_webhook(SECRET, headers, BODY + b" ", now=TIMESTAMP)
    assert not verify_webhook(SECRET, headers, BODY, now=TIMESTAMP + 301)
    assert not verify_webhook(SECRET, headers, BODY, now=TIMESTAMP - 301)
    assert not verify_webhook(new_secret(), headers, BODY, now=TIMESTAMP)


def test_one_of_several_signatures_is_enough_while_a_secret_changes() -> None:
    headers = {
        "Webhook-Id": MESSAGE_ID,
        "Webhook-Timestamp": str(TIMESTAMP),
        "Webhook-Signature": f"v1,abc {SIGNATURE}",
    }
    assert verify_webhook(SECRET, headers, BODY, now=TIMESTAMP)


def test_a_secret_is_long_enough_and_base64() -> None:
    assert check_secret(new_secret()) != new_secret()
    for secret in ("whsec_", "whsec_c2hvcnQ=", "whsec_no base64 at all", "x" * 200):
        with pytest.raises(UserError, match="base64 of 24 to 64 bytes"):
            check_secret(secret)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "gopher://example.org",
        "example.org",
        "https://",
        "http://example.org:99999/",
        "http://user:word@example.org/",
        "http://example.org/#part",
        "http://exam ple.org/",
        "http://example.org/\nx",
        "http://[::1/",
    ],
)
def test_what_is_no_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(UserError):
        check_url(url)


@pytest.mark.parametrize("url", ["https://example.org/hooks?token=1", "http://127.0.0.1:8080", "http://[::1]:8080/x"])
def test_plain_urls_are_taken(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1%eth0", "::ffff:169.254.169.254", "0.0.0.0", "224.0.0.1"]
)
def test_metadata_services_are_never_reached(address: str) -> None:
    assert not may_be_reached(address, private=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1", "::ffff:10.0.0.1"])
def test_private_networks_only_where_they_are_allowed(address: str) -> None:
    assert may_be_reached(address, private=True)
    assert not may_be_reached(address, private=False)


def test_public_addresses_are_reached() -> None:
    assert may_be_reached("93.184.216.34", private=False)


def test_a_message_says_what_when_and_of_which_run_also_when_the_fact_was_erased() -> None:
    run_id = UUID(int=7)
    at = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    words = {"event": "run.finished", "at": at, "run_id": run_id, "goal": "Audit \ud800 this", "step_key": None}
    told = json.loads(payload(fact=RunFinished(outcome="failed", reason="broken"), **words))  # type: ignore[arg-type]
    assert (told["type"], told["timestamp"]) == ("run.finished", "2026-11-25T12:00:00+00:00")
    assert (told["data"]["run_id"], told["data"]["outcome"]) == (str(run_id), "failed")
    assert "outcome" not in json.loads(payload(fact=None, **words))["data"]  # type: ignore[arg-type]
