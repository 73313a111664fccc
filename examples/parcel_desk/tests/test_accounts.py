from parcel_desk import accounts


def test_sign_in_sets_a_cookie(client):
    response = client.post("/sign-in", b"name=ada&password=correct+horse")
    assert response.status == 302
    assert response.headers["Set-Cookie"].startswith("ada.")


def test_wrong_secret_is_refused(client):
    assert client.post("/sign-in", b"name=ada&password=wrong").status == 401


def test_reset_codes_differ():
    assert accounts.reset_code() != accounts.reset_code()
