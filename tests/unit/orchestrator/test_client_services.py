"""What clients of one process share."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from chargehand.orchestrator.client import services
from chargehand.orchestrator.client.services import ROLES_KEPT_SECONDS, Services
from chargehand.orchestrator.settings import Settings

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


def test_a_busy_process_sees_a_new_role_within_a_second_and_any_other_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(services, "time", SimpleNamespace(monotonic=lambda: now[0]))
    installed = Path(services.__file__).parents[2] / "workers" / "roles"
    settings = Settings(home=tmp_path, roles_dir=tmp_path)
    busy = Services(settings, database_url=NOWHERE, is_busy=True)
    other = Services(settings, database_url=NOWHERE)
    try:
        assert not busy.installed_roles()
        assert not other.installed_roles()
        (tmp_path / "planner.md").write_text((installed / "planner.md").read_text())

        assert list(other.installed_roles()) == ["planner"]
        assert not busy.installed_roles()
        now[0] += ROLES_KEPT_SECONDS
        assert list(busy.installed_roles()) == ["planner"]
    finally:
        busy.close()
        other.close()
