"""As much of Flask as the counter needs: routes, requests, responses and a client for tests."""

import json
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import make_server

REASONS = {
    200: "OK",
    302: "Found",
    304: "Not Modified",
    401: "Unauthorized",
    404: "Not Found",
    500: "Server Error",
    503: "Service Unavailable",
}


@dataclass
class Request:
    """One request, read completely."""

    method: str
    path: str
    args: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))


@dataclass
class Response:
    """What a view answers; views may also return text, bytes or something that JSON can say."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def redirect(location: str) -> Response:
    return Response(status=302, headers={"Location": location})


def as_response(value: Any) -> Response:
    if isinstance(value, Response):
        return value
    if isinstance(value, bytes):
        return Response(value, headers={"Content-Type": "application/octet-stream"})
    if isinstance(value, str):
        return Response(value.encode(), headers={"Content-Type": "text/html; charset=utf-8"})
    return Response(json.dumps(value).encode(), headers={"Content-Type": "application/json"})


class App:
    """A WSGI application. The first route that matches answers."""

    def __init__(self) -> None:
        self.routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = []
        self.debug = False

    def route(self, rule: str, methods: Iterable[str] = ("GET",)) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """`<name>` matches one segment of the path, `<path:name>` matches the rest of it."""

        def group(match: re.Match[str]) -> str:
            return f"(?P<{match[2]}>{'.+' if match[1] else '[^/]+'})"

        pattern = re.compile(re.sub(r"<(path:)?(\w+)>", group, rule) + "$")

        def register(view: Callable[..., Any]) -> Callable[..., Any]:
            for method in methods:
                self.routes.append((method, pattern, view))
            return view

        return register

    def handle(self, request: Request) -> Response:
        for method, pattern, view in self.routes:
            match = pattern.match(request.path)
            if match and method == request.method:
                return as_response(view(request, **match.groupdict()))
        return Response(b"not found", status=404)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        request = Request(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", "/"),
            args=dict(parse_qsl(environ.get("QUERY_STRING", ""))),
            headers={name[5:].replace("_", "-").title(): environ[name] for name in environ if name.startswith("HTTP_")},
            body=environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)),
        )
        try:
            response = self.handle(request)
        except Exception:
            if not self.debug:
                raise
            response = Response(traceback.format_exc().encode(), status=500)
        status = f"{response.status} {REASONS.get(response.status, '')}"
        start_response(status, list(response.headers.items()))
        return [response.body]

    def run(self, host: str = "127.0.0.1", port: int = 8080, debug: bool = False) -> None:
        """Serve for ever. With `debug`, a traceback is sent to whoever caused it."""
        self.debug = debug
        with make_server(host, port, self) as server:
            server.serve_forever()

    def test_client(self) -> "Client":
        return Client(self)


class Client:
    """Calls the application without a socket."""

    def __init__(self, app: App) -> None:
        self.app = app

    def get(self, path: str, **args: str) -> Response:
        return self.app.handle(Request(method="GET", path=path, args=args))

    def post(self, path: str, body: bytes = b"") -> Response:
        return self.app.handle(Request(method="POST", path=path, body=body))
