"""Runs the counter: `python -m parcel_desk.serve`."""

from parcel_desk import accounts, settings, store
from parcel_desk.app import create_app
from parcel_desk.miniflask import App


def build() -> App:
    return create_app(store.connect(settings.DATABASE), accounts.Staff())


if __name__ == "__main__":
    app = build()
    app.run(port=8080, debug=True)
