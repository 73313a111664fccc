"""`chargehand memory` on a real database, as a person and as a program read it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from chargehand.orchestrator.cli import invoke
from chargehand.orchestrator.settings import load_settings

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def chargehand(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run the command for a tenant of its own; gives exit code, standard output and standard error."""
    for name in list(os.environ):
        if name.startswith("CHARGEHAND_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHARGEHAND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CHARGEHAND_DATABASE_URL", database_url)
    monkeypatch.setenv("CHARGEHAND_TENANT", str(uuid4()))
    load_settings.cache_clear()

    def run(*arguments: str) -> tuple[int, str, str]:
        code = invoke(["memory", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield run
    load_settings.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    root.mkdir()
    (root / "hours.md").write_text("# Hours\n\nThe counter is open from 9 to 17.\n")
    (root / "labels.py").write_text(
        'def render_label(parcel):\n    """The label of a parcel, as SVG."""\n' + "    draw(parcel)\n" * 30
    )
    return root


def test_a_folder_is_added_searched_counted_and_forgotten(chargehand: Run, folder: Path) -> None:
    assert chargehand("add", str(folder)) == (0, "2 passages of 2 files in library.\n", "")
    assert chargehand("add", str(folder))[1] == "2 passages of 2 files in library; 2 unchanged.\n"

    code, out, _ = chargehand("search", "When is the counter open?", "--limit", "2")
    first = out.split("\n\n")[0].splitlines()
    assert (code, first[0].split("  ")[0]) == (0, "shop/hours.md:1-3")
    assert first[-1] == "3  The counter is open from 9 to 17."
    assert "... 24 more lines (--full)" in out
    assert "more lines" not in chargehand("search", "label", "--limit", "2", "--full")[1]

    assert "library" in chargehand("stats")[1]
    assert chargehand("forget", "shop/hours.md") == (
        0,
        "1 memory forgotten, with what was concluded from them.\n",
        "",
    )
    assert [one["source"] for one in json.loads(chargehand("search", "counter", "--json")[1])] == ["shop/labels.py"]


def test_programs_read_json_with_the_places_of_the_words(chargehand: Run, folder: Path) -> None:
    added = json.loads(chargehand("add", str(folder), "--as", "s", "--json")[1])
    assert (added["files"], added["passages"], added["skipped"]) == (2, 2, {})

    [found] = json.loads(chargehand("search", "open counter", "--limit", "1", "--json")[1])

    assert found["source"] == "s/hours.md"
    assert [found["text"][begin:end] for begin, end in found["highlights"]] == ["counter", "open"]
    [held] = json.loads(chargehand("stats", "--json")[1])
    assert (held["scope"], held["kinds"]) == ("library", {"passage": 2})


def test_a_person_at_a_terminal_sees_the_words_of_the_question_marked(
    chargehand: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chargehand("add", str(folder))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")

    _, out, _ = chargehand("search", "open counter", "--limit", "1")

    marked = "\x1b[1;33m{}\x1b[0m".format
    assert f"The {marked('counter')} is {marked('open')} from 9 to 17." in out


def test_what_was_believed_before_a_change_is_found_as_of_then(
    chargehand: Run, folder: Path, database_url: str
) -> None:
    chargehand("add", str(folder))
    with psycopg.connect(database_url) as connection:
        [then] = connection.execute("SELECT clock_timestamp()").fetchone() or ()
    (folder / "hours.md").write_text("# Hours\n\nThe counter is shut.\n")
    chargehand("add", str(folder))

    now = chargehand("search", "counter", "--limit", "1")[1]
    before = chargehand("search", "counter", "--limit", "1", "--as-of", then.isoformat())[1]

    assert ("shut" in now, "superseded since" in now) == (True, False)
    assert ("open from 9 to 17" in before, "superseded since" in before) == (True, True)


def test_a_note_is_of_a_kind_of_its_own(chargehand: Run) -> None:
    made = json.loads(chargehand("add", "--note", "Heavy parcels go to the back.", "--source", "Ada", "--json")[1])
    [found] = json.loads(chargehand("search", "heavy", "--kind", "note", "--json")[1])
    assert found["memory_id"] == made["memory_id"]
    assert json.loads(chargehand("search", "heavy", "--kind", "passage", "--json")[1]) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add",), "Give either a PATH or --note TEXT."),
        (("add", "/nowhere/at/all"), "/nowhere/at/all cannot be read (No such file or directory)"),
        (("search", "  "), "The query is empty"),
        (("forget", "no/such.py"), "Nothing was read in 'no/such.py' in any scope"),
        (("search", "x", "--run", "abcdef99"), "abcdef99"),
        (("forget",), "either a source, or memories or runs"),
        (("search", "x", "--as-of", "yesterday"), "--as-of 'yesterday' is no time"),
    ],
)
def test_wrong_requests_are_one_line(chargehand: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = chargehand(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_reindex_embeds_what_is_missing_and_a_memory_is_forgotten_by_its_id(chargehand: Run, folder: Path) -> None:
    chargehand("add", str(folder))
    done = json.loads(chargehand("reindex", "--json")[1])
    assert (done["total"], done["embedded"], done["dropped"]) == (0, 0, 0)
    assert chargehand("reindex")[1].startswith("0 memories embedded by ")

    made = json.loads(chargehand("add", "--note", "Heavy parcels go to the back.", "--json")[1])["memory_id"]
    assert made in chargehand("search", "heavy", "--kind", "note")[1]
    assert json.loads(chargehand("forget", "--memory", made, "--json")[1])["forgotten"] == [made]


def test_an_empty_memory_says_how_to_fill_it(chargehand: Run) -> None:
    assert "chargehand memory add PATH" in chargehand("search", "anything")[1]
    assert "chargehand memory add PATH" in chargehand("stats")[1]


def test_what_a_change_of_model_has_left_to_embed_is_counted(chargehand: Run, database_url: str) -> None:
    chargehand("add", "--note", "Heavy parcels go to the back.", "--source", "Ada")
    assert "without a vector" not in chargehand("stats")[1]
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE chargehand.embeddings SET model_id = 'former'")
    assert "1 memory without a vector of" in chargehand("stats")[1]
