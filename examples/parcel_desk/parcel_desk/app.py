"""The routes of the counter."""

import sqlite3
from typing import Any

from parcel_desk import (
    accounts,
    billing,
    carriers,
    documents,
    intake,
    labels,
    notifications,
    pages,
    settings,
    sms,
    store,
    timeline,
)
from parcel_desk.miniflask import App, Request, Response, redirect


def create_app(connection: sqlite3.Connection, staff: accounts.Staff) -> App:
    """The application on this database, for these people."""
    app = App()

    @app.route("/parcels")
    def parcels(request: Request) -> list[dict[str, Any]]:
        return store.parcels_of(connection, request.args["sender"])

    @app.route("/parcels/list")
    def parcel_list(request: Request) -> list[dict[str, Any]]:
        return store.all_parcels(connection, request.args.get("sort", "code"))

    @app.route("/parcels/<code>/events")
    def events(request: Request, code: str) -> list[str]:
        return timeline.newest(store.events_of(connection, code), settings.EVENTS_PER_PAGE)

    @app.route("/parcels/<code>/delivered", methods=["POST"])
    def delivered(request: Request, code: str) -> dict[str, int]:
        store.deliver(connection, code, request.form["at"])
        return {"told": notifications.tell(code, "delivered")}

    @app.route("/parcels/<code>/settled")
    def settled(request: Request, code: str) -> dict[str, bool]:
        return {"settled": billing.is_settled(connection, code)}

    @app.route("/parcels/<code>/whereabouts")
    def whereabouts(request: Request, code: str) -> dict[str, Any] | Response:
        try:
            return carriers.whereabouts(code)
        except carriers.CarrierUnreachable as error:
            return Response(str(error).encode(), status=503)

    @app.route("/rates", methods=["POST"])
    def rates(request: Request) -> dict[str, int] | Response:
        try:
            return carriers.rates(request.body.decode())
        except carriers.CarrierUnreachable as error:
            return Response(str(error).encode(), status=503)

    @app.route("/parcels/<code>/label", methods=["POST"])
    def label(request: Request, code: str) -> dict[str, int]:
        return {"exit_code": labels.print_label(code, request.form.get("printer", "counter"))}

    @app.route("/documents/<path:name>")
    def document(request: Request, name: str) -> Response:
        body = documents.read_document(settings.DOCUMENTS, name)
        tag = documents.etag(body)
        if request.headers.get("If-None-Match") == tag:
            return Response(status=304)
        return Response(body, headers={"ETag": tag})

    @app.route("/search")
    def search(request: Request) -> str:
        term = request.args.get("q", "")
        codes = [parcel["code"] for parcel in store.all_parcels(connection, "code") if term in parcel["code"]]
        return pages.search_page(term, codes)

    @app.route("/drafts", methods=["POST"])
    def draft(request: Request) -> dict[str, Any]:
        return intake.restore_draft(request.body)

    @app.route("/manifests", methods=["POST"])
    def manifest(request: Request) -> list[str]:
        return intake.unpack_manifest(request.body, settings.MANIFESTS)

    @app.route("/sign-in", methods=["POST"])
    def sign_in(request: Request) -> Response:
        form = request.form
        if not staff.knows(form["name"], form["password"]):
            return Response(b"unknown name or password", status=401)
        response = redirect(form.get("next", "/search"))
        response.headers["Set-Cookie"] = accounts.cookie_for(form["name"])
        return response

    @app.route("/reset", methods=["POST"])
    def reset(request: Request) -> dict[str, bool]:
        staff.begin_reset(request.form["name"])
        return {"sent": True}

    return app
