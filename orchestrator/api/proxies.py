"""What a proxy says of the browser behind it, heeded from the proxies that are named and from nobody else."""

import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Puts what `X-Forwarded-Proto` and `X-Forwarded-For` say in the place of the connection's own scheme and address.

    Whoever else sends them is served as if they were not there: they could be anybody. It does not protect from a
    trusted proxy that passes on what browsers send in these headers instead of setting them.
    """

    def __init__(self, app: ASGIApp, *, networks: Sequence[Network]) -> None:
        """`app` answers; `networks`: where the proxies are."""
        self._app, self._networks = app, tuple(networks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["client"] and self._trusts(scope["client"][0]):
            # The first proxy is nearest to the browser; others may have added how they were spoken to.
            scheme = _said(scope, b"x-forwarded-proto")[:1]
            if scheme and scheme[0].lower() in ("http", "https"):
                scope["scheme"] = scheme[0].lower()
            # From the right: what stands left of the first address that is none of ours, anybody may have written.
            for address in reversed(_said(scope, b"x-forwarded-for")):
                scope["client"] = (address, 0)
                if not self._trusts(address):
                    break
        await self._app(scope, receive, send)

    def _trusts(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        # So an IPv4 peer is written by a socket that listens for both.
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._networks)


def _said(scope: Scope, header: bytes) -> list[str]:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == header]
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
