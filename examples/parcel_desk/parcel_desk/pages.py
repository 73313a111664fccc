"""The few pages that the counter shows."""

PAGE = "<!doctype html><title>Parcel desk</title><main>{}</main>"


def search_page(term: str, codes: list[str]) -> str:
    items = "".join(f"<li><a href='/parcels/{code}/events'>{code}</a></li>" for code in codes)
    return PAGE.format(f"<h1>Results for {term}</h1><ul>{items}</ul>")


def signed_in_page(name: str) -> str:
    return PAGE.format(f"<p>Signed in as {name}</p>")
