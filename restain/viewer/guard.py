"""What stands between the browser and the pages: the token in the address, Host and Origin, the size of a request.

A page on another site can make a browser send requests to this machine, and can give its own name this machine's
address (DNS rebinding). Neither knows the token, and neither can choose the Host or Origin that the browser sends.
"""

import secrets
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 256 * 1024
"""Of a request's body: a polygon of thousands of corners."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors {frames}",
}
NOTEBOOKS = "http://localhost:* http://127.0.0.1:* https://localhost:* https://127.0.0.1:*"
"""Where a notebook cell may show the page."""


def new_token() -> str:
    """A name that cannot be guessed: 128 bits."""
    return secrets.token_urlsafe(16)


class Guard:
    """Lets through what comes from the page itself, with the token taken off its path."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str], *, in_notebook: bool = False) -> None:
        """Guard an application.

        Args:
            app: what is guarded.
            token: the first part of every path.
            hosts: names and addresses, without port, by which this server may be called.
            in_notebook: whether pages on this machine may show it in a frame.
        """
        self._app, self._token = app, token.encode()
        self._hosts = frozenset(host.lower() for host in hosts)
        self._headers = {
            name: value.format(frames=NOTEBOOKS if in_notebook else "'none'") for name, value in _HEADERS.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websockets
        refusal = self._refuse(Request(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        inner = dict(scope)
        inner["path"] = "/" + scope["path"].split("/", 2)[2]
        inner["raw_path"] = inner["path"].encode()

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in self._headers.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(inner, receive, send_guarded)

    def _refuse(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("GET or POST is expected", 405)
        if _host(request.headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("this address is not the server's own; open the one that it printed", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers["host"]:
            return PlainTextResponse("a request from another page is not answered", 403)
        if request.headers.get("sec-fetch-site", "same-origin") == "cross-site" and request.method == "POST":
            return PlainTextResponse("a request from another page is not answered", 403)
        _, first, *rest = request.url.path.split("/")
        if not rest or not secrets.compare_digest(first.encode(), self._token):
            return PlainTextResponse("not found; open the address that the server printed", 404)
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return PlainTextResponse(f"a request has at most {MOST_BYTES} bytes", 413)
        if request.method == "POST" and "content-length" not in request.headers:
            return PlainTextResponse("a request says its length", 411)
        return None


def _host(header: str) -> str:
    """The host of a Host header, without its port, in lower case."""
    name, _, port = header.rpartition(":")
    return (name if name and port.isdigit() else header).lower()
