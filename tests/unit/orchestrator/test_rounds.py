"""What one round of a run finds to do."""

from collections.abc import Mapping
from uuid import UUID, uuid5

from chargehand.orchestrator.rounds import Place, Standing, decide

SPACE = UUID(int=1)


def place(key: str, kind: str, *, ordinal: int, parent: str | None = None) -> Place:
    return Place(
        step_id=uuid5(SPACE, key),
        key=key,
        ordinal=ordinal,
        pool="research",
        kind=kind,
        name=None,
        join="all",
        after=(),
        parent=None if parent is None else uuid5(SPACE, parent),
    )


def standing(status: str, *, awaits_children: bool = False) -> Standing:
    return Standing(status, 1, False, True, False, 0, None, awaits_children)


def test_a_step_that_is_cancelled_with_its_parent_is_not_ended_by_its_children_as_well() -> None:
    places = {
        one.step_id: one
        for one in (
            place("map", "map", ordinal=0),
            place("map/0/repeat", "repeat", ordinal=1, parent="map"),
            place("map/0/repeat/1/check", "script", ordinal=2, parent="map/0/repeat"),
        )
    }
    standings: Mapping[UUID, Standing] = dict(
        zip(
            places,
            (standing("failed"), standing("waiting", awaits_children=True), standing("succeeded")),
            strict=True,
        )
    )
    found = decide({**places, **_other()}, {**standings, **_waiting()}, run_status="running")
    assert [places[step].key for step in found.to_cancel] == ["map/0/repeat"]
    assert found.to_look_at == ()


def _other() -> dict[UUID, Place]:
    """Something that keeps the run going."""
    other = place("other", "gate", ordinal=3)
    return {other.step_id: other}


def _waiting() -> dict[UUID, Standing]:
    return {uuid5(SPACE, "other"): standing("waiting")}
