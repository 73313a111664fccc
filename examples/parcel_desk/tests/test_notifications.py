def test_customer_is_told_of_a_delivery(client):
    assert client.post("/parcels/PD-100/delivered", b"at=2024-03-01T10:00").json == {"told": 1}
