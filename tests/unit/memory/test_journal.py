"""Verification of a stream from its rows alone: every change shows, an erasure does not."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargehand.memory.journal import Entry, link, verify_stream

TENANT, RUN, STEP = (UUID(int=number) for number in (1, 2, 3))


def stream(*bodies: str) -> list[Entry]:
    """Rows as the database's trigger makes them."""
    rows: list[Entry] = []
    previous = b""
    for seq, body in enumerate(bodies, start=1):
        salt = seq.to_bytes(16, "big")
        entry = Entry(
            tenant=TENANT,
            run=RUN,
            step=STEP,
            seq=seq,
            kind="x",
            schema_version=1,
            epoch=1,
            at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=seq),
            body=body,
            salt=salt,
            body_hash=hashlib.sha256(salt + body.encode()).digest(),
            hash=b"",
        )
        previous = link(previous, entry)
        rows.append(replace(entry, hash=previous))
    return rows


def objections(entries: list[Entry]) -> list[tuple[int, str]]:
    return [(one.seq, one.what) for one in verify_stream(entries)]


bodies = st.lists(st.text(), min_size=1, max_size=12)


@given(bodies)
def test_a_stream_that_nobody_touched_verifies(texts: list[str]) -> None:
    assert objections(stream(*texts)) == []


@given(bodies, st.data())
def test_an_edited_body_is_found_where_it_is(texts: list[str], data: st.DataObject) -> None:
    rows = stream(*texts)
    at = data.draw(st.integers(0, len(rows) - 1))
    rows[at] = replace(rows[at], body=f"{rows[at].body}!")
    assert objections(rows) == [(at + 1, "the body was edited")]


@given(bodies.filter(lambda texts: len(texts) > 1), st.data())
def test_a_row_that_is_missing_before_the_last_is_found(texts: list[str], data: st.DataObject) -> None:
    rows = stream(*texts)
    at = data.draw(st.integers(0, len(rows) - 2))
    del rows[at]
    assert objections(rows) == [(at + 1, f"row {at + 1} is missing")]


@given(bodies.filter(lambda texts: len(texts) > 1), st.data())
def test_rows_that_were_swapped_are_found(texts: list[str], data: st.DataObject) -> None:
    rows = stream(*texts)
    one = data.draw(st.integers(0, len(rows) - 2))
    other = data.draw(st.integers(one + 1, len(rows) - 1))
    rows[one], rows[other] = replace(rows[other], seq=one + 1), replace(rows[one], seq=other + 1)
    assert objections(rows) == [(one + 1, "the row does not follow from the one before")]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": UUID(int=9)},
        {"run": UUID(int=9)},
        {"step": UUID(int=9)},
        {"kind": "y"},
        {"schema_version": 2},
        {"epoch": 2},
        {"at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"body_hash": b"0" * 32},
        {"hash": b"0" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_column_is_under_the_hash(change: dict[str, Any]) -> None:
    rows = stream("a", "b", "c")
    rows[1] = replace(rows[1], **change)
    assert (2, "the row does not follow from the one before") in objections(rows)


@given(bodies)
def test_erased_bodies_leave_a_stream_that_verifies(texts: list[str]) -> None:
    assert objections([replace(row, body=None, salt=None) for row in stream(*texts)]) == []


@pytest.mark.parametrize("change", [{"body": None}, {"salt": None}])
def test_half_an_erasure_is_found(change: dict[str, Any]) -> None:
    rows = stream("a", "b")
    rows[0] = replace(rows[0], **change)
    assert objections(rows) == [(1, "the body was half erased")]


def test_an_erased_body_cannot_be_guessed_from_its_hash() -> None:
    row = stream("yes")[0]
    assert row.body_hash != hashlib.sha256(b"yes").digest()


def test_the_hash_does_not_depend_on_the_zone_a_time_is_shown_in() -> None:
    row = stream("a")[0]
    elsewhere = replace(row, at=row.at.astimezone(datetime.now().astimezone().tzinfo))
    assert link(b"", elsewhere) == row.hash


def test_an_empty_stream_has_nothing_wrong() -> None:
    assert objections([]) == []
