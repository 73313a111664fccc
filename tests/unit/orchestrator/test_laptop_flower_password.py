"""Flower's password is chosen by the user or made once."""

from chargehand.orchestrator.laptop.flower_password import flower_password, password_file
from chargehand.orchestrator.settings import Settings


def test_a_password_that_was_set_is_used_and_not_written(tmp_path):
    settings = Settings(home=tmp_path, flower_password="mine")
    assert flower_password(settings) == "mine"
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    settings = Settings(home=tmp_path)
    password = flower_password(settings)
    assert len(password) >= 20
    assert flower_password(settings) == password
    assert [file.name for file in tmp_path.iterdir()] == ["flower.password"]
    assert password_file(settings).stat().st_mode & 0o777 == 0o600
