"""The scripts `index` and `check_answers` on a real repository, and what a researcher then finds."""

import dataclasses
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.orm import Session

from chargehand.memory.embedder import DIMENSIONS, MODEL_ID, Embedder, Vector
from chargehand.memory.semantic import recall
from chargehand.workers.scripts.answers import check_answers
from chargehand.workers.scripts.index import index, run_scope
from chargehand.workers.scripts.registry import SCRIPTS, ScriptContext
from chargehand.workers.tools.recall import recall_passages

OpenSession = Callable[[], AbstractContextManager[Session]]
RUN = uuid4()

FILES: dict[bytes, bytes] = {
    b"desk/labels.py": (
        b"from desk.pages import escape\n\n\ndef render_label(parcel):\n"
        b'    """The label of a parcel, as SVG."""\n    return "<svg>" + escape(parcel.code) + "</svg>"\n'
    ),
    b"desk/accounts.py": (
        b"import hashlib\n\n\ndef check_password(user, password):\n"
        b"    return hashlib.md5(password.encode()).hexdigest() == user.digest\n"
    ),
    b"desk/store.py": (
        b"import sqlite3\n\n\ndef open_store(path):\n    connection = sqlite3.connect(path)\n    return connection\n"
    ),
    b"desk/billing.py": (
        b"RATES = {'letter': 1, 'parcel': 5}\n\n\ndef price_of(parcel):\n    return RATES[parcel.kind]\n"
    ),
    b"docs/opening hours.md": b"# Opening hours\n\nThe counter is open from 9 to 17 on weekdays.\n",
    b"caf\xe9.txt": b"caf\xe9 au lait\n",
    b"windows.txt": b"first\r\nsecond\r\n",
    b"logo.png": b"\x89PNG\x00\x01",
    b"node_modules/left-pad/index.js": b"module.exports = leftPad\n",
    b"static/app.js": b"x=1;" * 1000,
    b"empty.py": b"",
    b"poetry.lock": b"[[package]]\n",
}


class Unwilling:
    """An embedder that must not be asked."""

    model_id = MODEL_ID
    dimensions = DIMENSIONS

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        assert not texts
        return []


@dataclass
class Tree:
    path: Path
    base_commit: str
    head_commit: str

    def commit(self, message: str) -> str:
        raise NotImplementedError(message)

    def reset(self, commit: str) -> None:
        raise NotImplementedError(commit)


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("desk")
    git(root, "init", "-q")
    for name, content in FILES.items():
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(content)
    (root / "huge.py").write_bytes(b"x = 1\n" * 200_000)
    (root / "passwd").symlink_to("/etc/passwd")
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", "desk")
    base = git(root, "rev-parse", "HEAD")
    # What an attempt changes later is not what was asked about.
    (root / "desk" / "labels.py").write_text("def changed(): ...\n")
    return Tree(path=root, base_commit=base, head_commit=base)


@pytest.fixture
def context(workspace: Tree, open_session: OpenSession, tenant: UUID, embedder: Embedder) -> Callable[..., Any]:
    progress: list[str] = []

    def make(**inputs: JsonValue) -> ScriptContext:
        return ScriptContext(
            tenant=tenant,
            run_id=RUN,
            step_id=uuid4(),
            step_key="index",
            goal="Where is a parcel's label rendered?",
            inputs=inputs,
            results=lambda _: None,
            open_workspace=lambda: workspace,
            put_artifact=lambda name, _: name,
            report_progress=progress.append,
            idempotency_key="k",
            open_session=open_session,
            embedder=lambda: embedder,
            workspace=None,
            step_keys=tuple,
            account=lambda: pytest.fail("the index asks for no account"),
        )

    return make


def test_both_scripts_are_registered() -> None:
    assert SCRIPTS["index"].effect == "idempotent"
    assert SCRIPTS["check_answers"].effect == "pure"


def test_text_files_are_remembered_and_others_counted_with_the_reason(
    context: Callable[..., ScriptContext], open_session: OpenSession
) -> None:
    report = index(context())

    assert report.files == 7
    assert report.skipped == {
        "binary": 1,
        "generated or data": 1,
        "larger than 1 MB": 1,
        "minified": 1,
        "vendored": 1,
    }
    assert report.scope == run_scope(RUN)
    with open_session() as session:
        sources = set(session.scalars(text("SELECT source FROM memories")))
    assert "caf\\xe9.txt" in sources
    assert "docs/opening hours.md" in sources
    assert "passwd" not in sources


def test_indexing_again_adds_nothing(context: Callable[..., ScriptContext], open_session: OpenSession) -> None:
    first, second = index(context()), index(context())
    assert first.passages == second.passages
    with open_session() as session:
        assert session.scalar(text("SELECT count(*) FROM memories")) == first.passages


def test_what_there_is_no_time_to_embed_is_still_found_by_its_words(
    context: Callable[..., ScriptContext], open_session: OpenSession, tenant: UUID, embedder: Embedder
) -> None:
    report = index(context(), max_embedding_seconds=0.0)
    assert (report.embedded, report.passages > 0) == (0, True)
    with open_session() as session:
        found = recall(session, tenant=tenant, scope=report.scope, query="label rendered", embedder=embedder)
    assert found
    assert {passage.similarity for passage in found} == {None}


def test_another_run_of_the_same_text_embeds_nothing_again(
    context: Callable[..., ScriptContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    index(context())
    second = dataclasses.replace(context(), run_id=uuid4(), embedder=Unwilling)
    assert index(second).embedded == index(context()).passages


def test_a_full_index_says_what_is_missing(context: Callable[..., ScriptContext]) -> None:
    report = index(context(), max_passages=2)
    assert report.passages == 2
    assert report.skipped["index full"] == 5


@pytest.mark.parametrize(
    ("question", "place", "line"),
    [
        ("Where is a parcel's label rendered?", "desk/labels.py", "def render_label(parcel):"),
        ("How are passwords checked?", "desk/accounts.py", "def check_password(user, password):"),
        ("Where is the database opened?", "desk/store.py", "    connection = sqlite3.connect(path)"),
        ("When is the counter open?", "docs/opening hours.md", "The counter is open from 9 to 17 on weekdays."),
        ("How is the price of a parcel computed?", "desk/billing.py", "def price_of(parcel):"),
    ],
)
def test_a_researcher_is_shown_the_lines_that_answer(
    context: Callable[..., ScriptContext],
    open_session: OpenSession,
    tenant: UUID,
    embedder: Embedder,
    question: str,
    place: str,
    line: str,
) -> None:
    index(context())
    with open_session() as session:
        shown = recall_passages(session, tenant=tenant, scope=run_scope(RUN), query=question, embedder=embedder)

    blocks = shown.text.split("\n\n")
    assert place in [block.partition(":")[0] for block in blocks[:2]]
    assert line in shown.text


def answer(*quotes: dict[str, JsonValue], found: bool = True) -> JsonValue:
    return {"question": "Where?", "found": found, "answer": "There.", "quotes": list(quotes), "confidence": 0.9}


@pytest.mark.parametrize(
    ("quote", "holds"),
    [
        ({"path": "desk/labels.py", "line": 4, "text": "def render_label(parcel):"}, True),
        ({"path": "desk/labels.py", "line": 4, "text": FILES[b"desk/labels.py"].decode().split("\n", 3)[3]}, True),
        ({"path": "desk/labels.py", "line": 4, "text": "def render_label(parcel):\n\n"}, False),
        ({"path": "desk/labels.py", "line": 5, "text": "def render_label(parcel):"}, False),
        ({"path": "desk/labels.py", "line": 4, "text": "def render_label(parcel)"}, False),
        ({"path": "desk/labels.py", "line": 0, "text": "def render_label(parcel):"}, False),
        ({"path": "desk/labels.py", "line": 1, "text": "def changed(): ..."}, False),
        ({"path": "desk/nowhere.py", "line": 1, "text": "x"}, False),
        ({"path": "desk/labels.py", "line": 2, "text": ""}, False),
        ({"path": "/etc/passwd", "line": 1, "text": "root:x:0:0:root:/root:/bin/bash"}, False),
        ({"path": "caf\\xe9.txt", "line": 1, "text": "caf\\xe9 au lait"}, True),
        ({"path": "windows.txt", "line": 1, "text": "first\r\nsecond\r\n"}, True),
        ({"path": "windows.txt", "line": 1, "text": "first\nsecond\n"}, False),
        ({"path": "logo.png", "line": 1, "text": "PNG"}, False),
    ],
)
def test_a_quote_holds_only_as_the_file_has_it_at_the_base_commit(
    context: Callable[..., ScriptContext], quote: dict[str, JsonValue], holds: bool
) -> None:
    (checked,) = check_answers(context(research=answer(quote))).answers
    assert checked.quotes_verified == int(holds)
    assert checked.quotes_refuted == (() if holds else (f"{quote['path']}:{quote['line']}",))


def test_results_that_are_no_answers_are_named(context: Callable[..., ScriptContext]) -> None:
    checked = check_answers(
        context(a=answer(found=False), b={"passages": 3}, c=None, d={"question": "Where?", "found": "perhaps"})
    )
    assert [item.answer.found for item in checked.answers] == [False]
    assert checked.unreadable.keys() == {"b", "c", "d"}
    assert checked.unreadable["c"] == "no result"
