"""How large a request may be: what says that it is larger is not read, what does not say so is read no further."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chargehand.orchestrator.api.problems import answer


class BodyLimit:
    """Answers 413 to a body of more than so many bytes."""

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        """`app` answers what is small enough."""
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        detail = f"A body may have {self._most:,} bytes; send less, or put long texts into the workspace."
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._most:
            await answer(413, "too-large", detail)(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, detail)
            return message

        await self._app(scope, counted, send)
