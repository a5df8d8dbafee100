"""A small slide that is looked at: a server in this process, asked as a browser would."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from restain.slides.codec import Codec
from restain.staining.settings import SlideSettings

pytest.importorskip("uvicorn", reason="the viewer's packages are not installed")
from restain.viewer import Server, View, open_view  # needs what the line above looks for

SETTINGS = SlideSettings(tile_px=128, codec=Codec("lossless"), model_mpp=0.5)


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks one server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.host, self.base = urlsplit(address).netloc, urlsplit(address).path

    def __call__(
        self, path: str, body: Any = None, *, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Answer:
        """Ask for a path below the token, or for one that begins with `/`."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        place = path if path.startswith("/") else self.base + path
        connection.request(method or ("GET" if data is None else "POST"), place, data, headers or {})
        answer = connection.getresponse()
        found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        return found


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """What `look_at` has started, until `stop` or the end of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def stop(servers: ExitStack) -> Callable[[], None]:
    """Ends all servers of the test."""
    return servers.close


@pytest.fixture
def look_at(servers: ExitStack) -> Callable[[View], Client]:
    """Serve views until the test is over."""

    def start(view: View) -> Client:
        server = Server(servers.enter_context(open_view(view, [])), "127.0.0.1", 0)
        thread = server.start()
        servers.callback(thread.join)
        servers.callback(server.close)
        return Client(server.address)

    return start


@pytest.fixture
def view(make_slide: Callable[..., Path], checkpoint: Path, tmp_path: Path) -> View:
    """The drawn slide, 600 x 430 px of half a micrometre, and an untrained model, lossless."""
    (tmp_path / "out").mkdir()
    return View(make_slide(mpp=0.5), (checkpoint,), out=tmp_path / "out", settings=SETTINGS)
