"""How results sound."""

import pytest

from chargehand.orchestrator.tones import is_transient, lets_time_pass, tone


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Success: no issues found in 41 source files", "success"),
        (
            "running 12 tests\n............\ntest result: ok. 12 passed; 0 failed; 0 ignored; finished in 0.02s",
            "success",
        ),
        ("Tests run: 41, Failures: 2, Errors: 0, Skipped: 0, and much more is said of it below", "failure"),
        ("", "success"),
        ("Edited.", "success"),
        ("All 214 tests passed.", "success"),
        ("Todos have been modified successfully. Go on with " + "the next one " * 9, "success"),
        ("12 passed, 0 failed", "success"),
        ("[]", "nothing"),
        ("No matching results.", "nothing"),
        ('{"items": []}', "nothing"),
        ("2 failed, 3 passed", "failure"),
        ("Traceback (most recent call last):\n" + "x\n" * 500 + "KeyError: 'id'", "failure"),
        ("status: queued", "plain"),
        ("word " * 100 + "the error is handled here " + "word " * 100, "plain"),
    ],
)
def test_the_tone_of_an_answer(text: str, expected: str) -> None:
    assert tone(text) == expected


@pytest.mark.parametrize(
    "text", ["HTTP 429", "Service Unavailable", "timed out", "database is locked", "not ready yet"]
)
def test_an_error_that_asks_to_come_again_is_known(text: str) -> None:
    assert is_transient(text)
    assert not is_transient("There is no such file.")


def test_a_wait_is_a_short_answer_to_a_call_that_says_so() -> None:
    assert lets_time_pass("bash", "sleep 30", "")
    assert lets_time_pass("bash", "sleep 30; echo waited && date", "waited")
    assert lets_time_pass("wait", "5", "waited 5 s")
    assert lets_time_pass("wait", "Let it deploy; then look at it", "")
    assert not lets_time_pass("bash", "sleep 2; curl localhost:8080", "200")
    assert not lets_time_pass("bash", "pkill vite; sleep 1", "")
    assert not lets_time_pass("wait_for_page", "x", "[page] a long text of what has appeared on the page by now")
    assert not lets_time_pass("read_file", "sleeping.py", "")


def test_what_is_denied_is_no_success() -> None:
    assert tone('{"accepted": true}') == "success"
    assert tone('{"accepted": false}') == "plain"
