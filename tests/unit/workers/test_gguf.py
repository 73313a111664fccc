"""A model of one's own is served only from the file that was meant, and says what is missing."""

import hashlib
from pathlib import Path

import pytest

from chargehand.workers import gguf
from chargehand.workers.gguf import NotServed, main, verified

CONTENT = b"GGUF" + bytes(range(256)) * 5_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that begins as one does."""
    path = tmp_path / "m.gguf"
    path.write_bytes(CONTENT)
    return path


def test_file_with_its_hash_is_taken(model: Path) -> None:
    assert verified(model, f" {hashlib.sha256(CONTENT).hexdigest().upper()}\n") == model


def test_one_changed_bit_is_refused_before_anything_is_loaded(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = bytearray(CONTENT)
    changed[-1] ^= 1
    model.write_bytes(changed)
    loaded: list[object] = []
    monkeypatch.setattr(gguf, "serve", lambda *given, **more: loaded.append(given))

    assert main([str(model), "--sha256", hashlib.sha256(CONTENT).hexdigest()]) == 1
    assert "was damaged or is another file" in capsys.readouterr().err
    assert not loaded


@pytest.mark.parametrize("sha256", ["", "abc", "z" * 64])
def test_what_is_no_hash_is_refused(model: Path, sha256: str) -> None:
    with pytest.raises(NotServed, match="64 hexadecimal"):
        verified(model, sha256)


def test_other_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"PK")
    with pytest.raises(NotServed, match="no GGUF file"):
        verified(tmp_path / "x.bin", "0" * 64)
    with pytest.raises(NotServed, match="is no file"):
        verified(tmp_path, "0" * 64)


def test_without_the_extra_it_says_how_to_get_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gguf, "xllamacpp", None)

    assert main([str(model), "--sha256", hashlib.sha256(CONTENT).hexdigest()]) == 1
    assert "pip install 'chargehand[gguf]'" in capsys.readouterr().err
