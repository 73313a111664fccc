"""The code of the documents, run as their readers run it.

A comment before a block says what becomes of it: `file NAME` saves it, `background TEXT` starts it and waits until it
has printed that, `run` runs it (`run until TEXT` again and again until it prints that), `prints` compares what the last
one printed, where `…` stands for anything.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psycopg
import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(
    r"^<!-- (?P<what>file|background|run until|run|prints)(?: (?P<word>[^\n]+?))? -->\n```\w*\n(?P<code>.*?)^```$",
    re.M | re.S,
)
PATIENCE_SECONDS = 60


def blocks_of(page):
    """What is to be done with each marked block: (what, word, code)."""
    return [(found["what"], found["word"], found["code"]) for found in BLOCK.finditer((DOCS / page).read_text())]


def test_no_mark_is_overlooked():
    for page in DOCS.glob("*.md"):
        marks = re.findall(r"^<!-- (?:file|background|run|prints)\b", page.read_text(), re.MULTILINE)
        assert len(blocks_of(page.name)) == len(marks), page
    assert len(blocks_of("quickstart.md")) > 8


class Reader:
    """Somebody who types the blocks of a page into a terminal, and keeps another one open for what runs on."""

    def __init__(self, folder, environment):
        self.folder = folder
        self.environment = environment
        self.others = []
        self.printed = ""

    def follow(self, page):
        for what, word, code in blocks_of(page):
            match what:
                case "file":
                    (self.folder / word).write_text(code)
                case "background":
                    self.start(code, word)
                case "run":
                    self.run(code)
                case "run until":
                    self.run_until(code, word)
                case "prints":
                    assert objections(code, self.printed) == [], self.printed

    def run(self, code):
        # Variables of one block are there in the next.
        script = f"set -eua; [ ! -f .variables ] || . ./.variables\n{code}\nexport -p > .variables"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        self.printed = done.stdout
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"

    def run_until(self, code, word):
        deadline = time.monotonic() + PATIENCE_SECONDS
        self.run(code)
        while word not in self.printed:
            assert time.monotonic() < deadline, f"{code} has not printed {word!r} but {self.printed!r}"
            self.run(code)

    def start(self, code, word):
        log = self.folder / "background.log"
        with log.open("w") as out:
            other = subprocess.Popen(
                ["bash", "-c", f"exec env {code.strip()}"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=out,
            )
        self.others.append(other)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while word not in log.read_text():
            assert other.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def leave(self):
        for other in self.others:
            other.send_signal(signal.SIGINT)
        for other in self.others:
            other.wait(60)


def objections(expected, printed):
    """Lines that were not printed, in this order."""
    missing, lines = [], iter(printed.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(r"\s*" + ".*".join(map(re.escape, line.split("…"))) + r"\s*")
        if not any(pattern.fullmatch(one) for one in lines):
            missing.append(line)
            break
    return missing


def test_what_was_not_printed_is_noticed():
    assert objections("a … c\nd\n", "x\na b c  \nd\n") == []
    assert objections("d\na … c\n", "a b c\nd\n") == ["a … c"]
    assert objections("a\n", "ab\n") == ["a"]


@pytest.fixture
def environment(laptop_home):
    """Of a reader who has activated the environment and set nothing but where the home is."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CHARGEHAND_", "ANTHROPIC_"))}
    path = f"{Path(sys.executable).parent}:{clean['PATH']}"
    return {**clean, "CHARGEHAND_HOME": str(laptop_home), "PATH": path, "COLUMNS": "100"}


@pytest.mark.system
@pytest.mark.long
def test_the_quickstart_does_what_it_says(tmp_path, environment):
    reader = Reader(tmp_path, environment)
    try:
        reader.follow("quickstart.md")
    finally:
        reader.leave()
    assert "login.py" in (tmp_path / "answer" / "report.md").read_text()


# --- enqueue.md -------------------------------------------------------------------------------------------------------

MODELS = """
import os
import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

server = conninfo_to_dict(os.environ["CHARGEHAND_DATABASE_URL"])
names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}
        | {name: server[key] for name, key in names.items() if key in server}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", USE_TZ=True, ALLOWED_HOSTS=["testserver"],
)
django.setup()
from django.db import models

class Order(models.Model):
    article = models.TextField()
    class Meta:
        app_label, db_table = "shop", "orders"
    def check_stock(self):
        if self.article == "unicorn":
            raise RuntimeError("Out of stock.")
"""
DJANGO = """
import json
from models import Order
from django.test import RequestFactory
from django_views import place_order

post = RequestFactory().post
answer = place_order(post("/orders", {"article": "kettle"}))
assert answer.status_code == 202
try:
    place_order(post("/orders", {"article": "unicorn"}))
except RuntimeError:
    print(json.loads(answer.content)["run"])
"""
FASTAPI = """
from fastapi.testclient import TestClient
from fastapi_app import app

with TestClient(app) as http:
    answer = http.post("/orders?article=kettle")
    assert answer.status_code == 202, answer.text
    assert http.post("/orders?article=unicorn").status_code == 409
print(answer.json()["run"])
"""


@pytest.mark.parametrize("program", [DJANGO, FASTAPI], ids=["django", "fastapi"])
def test_the_examples_of_enqueueing_submit_if_and_only_if_they_commit(tmp_path, environment, database_url, program):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY, article text)")
        connection.execute("TRUNCATE orders; TRUNCATE chargehand.submissions")
        for what, name, code in blocks_of("enqueue.md"):
            if what == "file":
                (tmp_path / name).write_text(code)
        (tmp_path / "models.py").write_text(MODELS)
        (tmp_path / "try.py").write_text(textwrap.dedent(program))
        servers = {"CHARGEHAND_DATABASE_URL": database_url, "CHARGEHAND_REDIS_URL": "redis://127.0.0.1:1/0"}
        done = subprocess.run(
            [sys.executable, "try.py"], cwd=tmp_path, env={**environment, **servers}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert connection.execute("SELECT article FROM orders").fetchall() == [("kettle",)]
        assert [str(run) for (run,) in connection.execute("SELECT run FROM chargehand.submissions")] == [
            done.stdout.strip()
        ]
