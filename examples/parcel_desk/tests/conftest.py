import sqlite3

import pytest

from parcel_desk import accounts, store
from parcel_desk.app import create_app
from parcel_desk.miniflask import Client


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = store.connect(":memory:")
    store.accept(connection, "PD-100", "Ada", "Bergen", 900)
    store.accept(connection, "PD-101", "Ada", "Aalst", 1200)
    store.accept(connection, "PD-102", "Grace", "Cork", 300)
    yield connection
    connection.close()


@pytest.fixture
def staff() -> accounts.Staff:
    staff = accounts.Staff()
    staff.enrol("ada", "correct horse")
    return staff


@pytest.fixture
def client(connection: sqlite3.Connection, staff: accounts.Staff) -> Client:
    return create_app(connection, staff).test_client()
