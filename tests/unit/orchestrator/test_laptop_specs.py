"""Which processes a laptop runs, for which settings and environment."""

import sys
from pathlib import Path

import pytest

from chargehand.orchestrator.laptop.services import Endpoints
from chargehand.orchestrator.laptop.specs import Ports, process_specs, says, settings_environment
from chargehand.orchestrator.settings import Settings

ENDPOINTS = Endpoints(database_url="postgresql://somewhere/db", redis_url="redis://:secret@127.0.0.1:1/0")
PORTS = Ports(flower=5001, offline=5002, api=5003)


def specs_for(environment, **fields):
    settings = Settings(home=Path("/somewhere"), **fields)
    return {spec.name: spec for spec in process_specs(settings, ENDPOINTS, ports=PORTS, environment=environment)}


def test_without_a_model_the_offline_one_starts_first_and_everybody_is_sent_to_it():
    specs = specs_for({})
    assert list(specs) == ["offline", "supervisor", "research", "coding", "audit", "api", "flower"]
    assert specs["offline"].argv == (sys.executable, "-m", "chargehand.workers.offline", "--port", "5002")
    assert [spec.name for spec in specs.values() if spec.foundation] == ["offline"]
    for pool in ("research", "coding", "audit"):
        assert specs[pool].environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:5002"
        # They share a folder of counts; Flower keeps its own in memory.
        assert specs[pool].environment["PROMETHEUS_MULTIPROC_DIR"].endswith("/metrics")
        assert specs[pool].environment["ANTHROPIC_API_KEY"] == "offline"
        for tier in ("SMALL", "MEDIUM", "LARGE"):
            assert specs[pool].environment[f"CHARGEHAND_{tier}_MODEL"] == "offline-rules-1"
    assert "PROMETHEUS_MULTIPROC_DIR" not in specs["flower"].environment


def test_the_offline_model_can_be_made_slow_so_that_something_can_be_killed_in_the_middle():
    specs = specs_for({"CHARGEHAND_OFFLINE_DELAY_SECONDS": "0.5"})
    assert specs["offline"].argv[-2:] == ("--delay-seconds", "0.5")


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"])
def test_with_a_model_of_yours_nothing_offline_starts_and_its_variables_are_left_alone(name):
    specs = specs_for({name: "mine"})
    assert list(specs) == ["supervisor", "research", "coding", "audit", "api", "flower"]
    for spec in specs.values():
        assert {key: value for key, value in spec.environment.items() if key.startswith("ANTHROPIC")} == {name: "mine"}


def test_an_empty_key_is_no_key():
    assert "offline" in specs_for({"ANTHROPIC_API_KEY": ""})


def test_every_pool_takes_from_its_own_queue_under_the_prefix():
    specs = specs_for({}, key_prefix="blue")
    for name in ("supervisor", "research", "coding", "audit"):
        argv = specs[name].argv
        assert argv[argv.index("-Q") + 1] == f"blue.{name}"
        assert argv[argv.index("-P") + 1] == "threads"


def test_every_process_learns_the_endpoints_and_the_settings_that_were_set():
    for spec in specs_for({"PATH": "/bin"}, lease_seconds=2.5, flower_password="hush").values():
        assert spec.environment["CHARGEHAND_DATABASE_URL"] == ENDPOINTS.database_url
        assert spec.environment["CHARGEHAND_REDIS_URL"] == ENDPOINTS.redis_url
        assert spec.environment["CHARGEHAND_HOME"] == "/somewhere"
        assert spec.environment["CHARGEHAND_LEASE_SECONDS"] == "2.5"
        assert spec.environment["CHARGEHAND_FLOWER_PASSWORD"] == "hush"
        assert spec.environment["PATH"] == "/bin"


def test_settings_come_out_of_their_own_environment_as_they_went_in(monkeypatch):
    settings = Settings(home=Path("/somewhere"), lease_seconds=2.5, flower_password="hush", artifacts_dir=Path("/a"))
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_no_secret_is_on_a_command_line():
    for spec in specs_for({}, flower_password="hush").values():
        assert not any("secret" in argument or "hush" in argument for argument in spec.argv)


def test_ready_means_that_the_words_were_logged():
    probe = says(" ready.")
    assert probe("[INFO] research@laptop ready.")
    assert not probe("[INFO] Connected to redis")
