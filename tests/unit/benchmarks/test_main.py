"""`python -m benchmarks`: what it prints and how it ends."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import peers
from benchmarks.figures import Figure, NotMeasured


def suite(*figures, missing=None):
    def measure():
        yield from figures
        if missing is not None:
            raise NotMeasured(missing)

    return measure


KEPT = Figure(name="kept", value=1.0, unit="ms", target=2.0)
BROKEN = Figure(name="broken", value=3.0, unit="ms", target=2.0)
FREE = Figure(name="free", value=9.0, unit="ms")


@pytest.mark.parametrize(
    ("suites", "code"),
    [
        ({"a": suite(KEPT, FREE)}, 0),
        ({"a": suite(BROKEN), "b": suite(KEPT)}, 1),
        ({"a": suite(KEPT, missing="install it")}, 1),
    ],
)
def test_the_exit_code_is_zero_only_when_every_promise_was_measured_and_kept(monkeypatch, capsys, suites, code):
    monkeypatch.setattr(benchmarks, "SUITES", suites)
    assert benchmarks.main([]) == code
    assert [json.loads(line)["figure"] for line in capsys.readouterr().out.splitlines()]


def test_a_suite_that_cannot_run_says_why_and_the_others_run_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "SUITES", {"a": suite(missing="install it"), "b": suite(KEPT)})
    assert benchmarks.main([]) == 1
    said = capsys.readouterr()
    assert "install it" in said.err
    assert json.loads(said.out)["figure"] == "kept"


def test_an_unknown_suite_is_refused_with_the_names_that_there_are(capsys):
    assert benchmarks.main(["turns"]) == 2
    assert "turn, core" in capsys.readouterr().err


def test_without_the_peers_their_suite_names_them_and_how_to_install_them(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(peers, "version", nothing)
    with pytest.raises(NotMeasured) as refused:
        peers.load_peers()
    assert all(name in str(refused.value) for name in (*peers.DISTRIBUTIONS, "make bench", "requirements-bench.lock"))
