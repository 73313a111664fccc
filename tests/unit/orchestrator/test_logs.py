"""A line of the logs names the run and the step that it is about, in words or as JSON."""

import json
import logging
import sys

import pytest

from chargehand.orchestrator.logs import formatter, working_on
from chargehand.orchestrator.settings import Settings


def line(log_format, *, extra=None, exc_info=None):
    record = logging.LogRecord("steps", logging.INFO, "steps.py", 1, "step %s", ("claimed",), exc_info)
    record.__dict__.update(extra or {})
    record.created, record.msecs = 0.25, 250.0
    return formatter(Settings(log_format=log_format)).format(record)


def test_a_line_of_json_has_what_it_is_about_and_the_work_it_was_logged_in():
    with working_on(run_id="r1", step_id="s1"), working_on(step="scan"):
        text = line("json", extra={"epoch": 2, "run_id": "r2"})
    assert json.loads(text) == {
        "at": "1970-01-01T00:00:00.250Z",
        "level": "INFO",
        "logger": "steps",
        "event": "step claimed",
        "run_id": "r2",
        "step_id": "s1",
        "step": "scan",
        "epoch": 2,
    }
    assert "run_id" not in json.loads(line("json"))


def test_a_traceback_stays_in_the_line_that_it_belongs_to():
    try:
        raise ValueError("broken")
    except ValueError:
        text = line("json", exc_info=sys.exc_info())
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["traceback"]


def test_a_line_of_words_names_the_work_too():
    with working_on(run_id="r1"):
        assert line("text", extra={"epoch": 2}).endswith("INFO steps: step claimed run_id=r1 epoch=2")


def test_a_format_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="log_format"):
        Settings(log_format="xml")
