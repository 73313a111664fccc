def test_parcels_of_one_sender(client):
    assert [parcel["code"] for parcel in client.get("/parcels", sender="Ada").json] == ["PD-100", "PD-101"]


def test_list_sorts_by_an_allowed_column(client):
    assert [parcel["city"] for parcel in client.get("/parcels/list", sort="city").json] == ["Aalst", "Bergen", "Cork"]


def test_list_sorts_by_code_when_the_column_is_unknown(client):
    assert client.get("/parcels/list", sort="1; DROP TABLE parcels").json[0]["code"] == "PD-100"


def test_search_links_to_the_parcel(client):
    assert b"/parcels/PD-102/events" in client.get("/search", q="102").body


def test_unknown_page(client):
    assert client.get("/nowhere").status == 404
