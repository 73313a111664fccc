from parcel_desk import store


def test_newest_events_come_first(client, connection):
    for hour, what in enumerate(["accepted", "sorted", "loaded", "out for delivery"]):
        store.record(connection, "PD-100", f"2024-03-01T{hour:02}:00", what)
    assert client.get("/parcels/PD-100/events").json == ["out for delivery", "loaded", "sorted", "accepted"]


def test_parcel_without_events(client):
    assert client.get("/parcels/PD-101/events").json == []
