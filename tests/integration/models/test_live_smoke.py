"""`make live` may say that all is well only when a language model has said something."""

import pytest
from live.__main__ import main
from wire import serving


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a key."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "CHARGEHAND_MODEL_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_key_it_says_so_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 2
    assert "ANTHROPIC_API_KEY" in capsys.readouterr().err


def test_rules_pass_every_check_and_are_still_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "none")

        code = main()

    said = capsys.readouterr()
    assert said.out.count("ok      ") == 5, said.out
    assert "written, then" in said.out
    assert code == 2
    assert "no language model" in said.err


def test_server_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base_url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
        server.faults.replace([{"kind": "server_error"}])

        main()

    assert "FAILED  words: HTTP 500" in capsys.readouterr().out
