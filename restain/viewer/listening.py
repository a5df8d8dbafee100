"""Serves a scene at an address of its own until told to stop."""

import errno
import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from restain.errors import InputError
from restain.viewer.guard import new_token
from restain.viewer.server import Viewer


class _Uvicorn(uvicorn.Server):
    """Ends the streams to the pages first, which would otherwise never end."""

    def __init__(self, end: Callable[[], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end()
        await super().shutdown(sockets)


EVERYWHERE = ("0.0.0.0", "::")
"""Stand for all addresses of this machine, and are the name of none."""


def _addresses(name: str) -> set[str]:
    """The addresses under which other machines may know this one, as they stand in a Host header."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        return set()
    return {f"[{address}]" if ":" in address else address for address in found}


class Server:
    """Listens at an address of its own until it is closed."""

    def __init__(self, viewer: Viewer, host: str, port: int, *, in_notebook: bool = False) -> None:
        """Bind the address; `run` or `start` serves.

        Raises:
            InputError: the address cannot be used.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(128)
        except (OSError, OverflowError) as error:
            self._socket.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"port {port} is in use, perhaps by another viewer; choose another port, or none for a free one"
                ) from error
            raise InputError(
                f"cannot listen on {host}, port {port} ({error}); choose another address or port"
            ) from error
        port = self._socket.getsockname()[1]
        token, name = new_token(), f"[{host}]" if ":" in host else host
        hosts = {name, "127.0.0.1", "localhost", "[::1]"}
        if host in EVERYWHERE:
            name = socket.gethostname()
            hosts |= {name, socket.getfqdn(), *_addresses(name)}
        self.address = f"http://{name}:{port}/{token}/"
        """What to open in a browser; nobody else knows it."""
        self._server = _Uvicorn(
            viewer.end,
            uvicorn.Config(
                viewer.app(token, sorted(hosts), in_notebook=in_notebook),
                log_level="error",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=64 * 1024,
            ),
        )

    def run(self, *, open_browser: bool) -> None:
        """Serve until Ctrl-C."""
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [self.address]).start()
        self._server.run([self._socket])

    def start(self) -> threading.Thread:
        """Serve from a thread of its own, until `close`."""
        thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
