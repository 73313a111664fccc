"""Statements and parameters in the form that libpq takes."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from chargehand.orchestrator.prepared import as_text, numbered


def test_a_name_used_twice_is_one_parameter() -> None:
    assert numbered("SELECT %(b)s, %(a)s, %(b)s LIKE 'y%%'") == ("SELECT $1, $2, $1 LIKE 'y%'", ("b", "a"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (True, b"t"),
        (False, b"f"),
        (7, b"7"),
        (0.5, b"0.5"),
        ("naïve", "naïve".encode()),
        (UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        (date(2026, 11, 26), b"2026-11-26"),
        (datetime(2026, 11, 26, 1, 2, 3, 4, tzinfo=UTC), b"2026-11-26T01:02:03.000004+00:00"),
        (["a", 'say "b"', "back\\slash", None], b'{"a","say \\"b\\"","back\\\\slash",NULL}'),
        ([UUID(int=2)], b"{00000000-0000-0000-0000-000000000002}"),
        ([], b"{}"),
    ],
)
def test_parameters_have_their_text_form(value: object, text: bytes | None) -> None:
    assert as_text(value) == text


def test_nul_is_refused_rather_than_cut_off() -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        as_text("a\x00b")


def test_an_unknown_type_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match=r"timedelta.*_TEXT"):
        as_text(timedelta(seconds=1))
