"""Pinned roles in Postgres."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chargehand.memory.database import tenant_session
from chargehand.memory.procedural import RoleNotFound, parse_role, pin_roles, pinned_role, role_at

OpenSession = Callable[[], AbstractContextManager[Session]]

TEXT = """---
name: triage
description: Decides.
pool: audit
tier: small
output: submit
---
Decide.
"""


def test_a_pinned_role_is_what_it_was_whatever_the_file_says_later(open_session: OpenSession, tenant: UUID) -> None:
    first, second = parse_role(TEXT, origin="a", commit="c0ffee"), parse_role(TEXT + "Better.", origin="a")
    with open_session() as session:
        pinned = pin_roles(session, tenant=tenant, roles=[first])
    with open_session() as session:
        assert pin_roles(session, tenant=tenant, roles=[second, first]).keys() == {"triage"}
        assert role_at(session, tenant=tenant, role_hash=pinned["triage"]) == first
        assert role_at(session, tenant=tenant, role_hash=second.blob_hash) == second


def test_a_hash_of_another_tenant_is_not_found(engine: Engine, open_session: OpenSession, tenant: UUID) -> None:
    role = parse_role(TEXT, origin="a")
    with open_session() as session:
        pin_roles(session, tenant=tenant, roles=[role])
    with tenant_session(engine, uuid4()) as session, pytest.raises(RoleNotFound, match="submit the run again"):
        role_at(session, tenant=tenant, role_hash=role.blob_hash)


def test_a_pinned_version_is_found_by_the_beginning_of_its_hash(open_session: OpenSession, tenant: UUID) -> None:
    first, second = parse_role(TEXT, origin="a"), parse_role(TEXT + "Better.", origin="a")
    with open_session() as session:
        pin_roles(session, tenant=tenant, roles=[first])
        pin_roles(session, tenant=tenant, roles=[second])
        found = pinned_role(session, tenant=tenant, name="triage", beginning=second.blob_hash[:6])
        assert found == second
        with pytest.raises(RoleNotFound, match="More than one version of role 'triage'"):
            pinned_role(session, tenant=tenant, name="triage", beginning="")
        with pytest.raises(RoleNotFound, match="No version of role 'writer'"):
            pinned_role(session, tenant=tenant, name="writer", beginning=first.blob_hash[:6])


def test_no_roles_pin_nothing(open_session: OpenSession, tenant: UUID) -> None:
    with open_session() as session:
        assert pin_roles(session, tenant=tenant, roles=[]) == {}
