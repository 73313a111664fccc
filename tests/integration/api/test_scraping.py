"""The API tells Prometheus of the fleet where it was asked to, and nobody anywhere else."""


def test_metrics_are_served_without_a_key_only_where_the_settings_say_so(open_api):
    closed, opened = open_api(), open_api(api_metrics=True)
    assert closed.http.get("/metrics").status_code == 404

    opened.http.headers.pop("Authorization")
    answer = opened.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "chargehand_database_up 1.0" in answer.text.splitlines()
    assert "/metrics" not in opened.http.get("/v1/openapi.json").json()["paths"]
