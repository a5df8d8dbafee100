"""Only the page itself is answered: each way in is shut, one by one."""

import http.client
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from restain.errors import InputError
from restain.viewer import Server, View, open_view
from restain.viewer.guard import MOST_BYTES, new_token

Client = Any  # see conftest.py


@pytest.fixture
def client(make_slide: Callable[..., Path], look_at: Callable[[View], Client]) -> Client:
    return look_at(View(make_slide()))


def test_the_page_itself_is_answered(client: Client) -> None:
    assert client("").status == client("scene.json").status == client("static/viewer.js").status == 200


@pytest.mark.parametrize("path", ["/", "/scene.json", "/static/viewer.js", "/wrong-token/scene.json", "//scene.json"])
def test_without_the_token_nothing_is_found(client: Client, path: str) -> None:
    assert client(path).status == 404


def test_a_part_of_the_token_is_not_the_token(client: Client) -> None:
    assert client(f"{client.base[:-2]}/scene.json").status == 404


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert min(map(len, tokens)) >= 22  # 128 bits in base 64


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1].evil:1"])
def test_another_name_for_this_machine_is_refused(client: Client, host: str) -> None:
    assert client("scene.json", headers={"Host": host}).status == 403


def test_listening_everywhere_answers_to_names_of_this_machine_only(make_slide: Callable[..., Path]) -> None:
    with open_view(View(make_slide()), []) as viewer:
        server = Server(viewer, "0.0.0.0", 0)
        thread = server.start()
        place = urlsplit(server.address)
        assert place.hostname == socket.gethostname().lower()
        for host, status in (
            (place.netloc, 200),
            (f"127.0.0.1:{place.port}", 200),
            (f"evil.example:{place.port}", 403),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=30)
            connection.request("GET", place.path, headers={"Host": host})
            assert connection.getresponse().status == status
            connection.close()
        server.close()
        thread.join()


def test_a_port_that_is_taken_is_told(client: Client, make_slide: Callable[..., Path]) -> None:
    port = client.host.partition(":")[2]
    with open_view(View(make_slide()), []) as viewer, pytest.raises(InputError, match=port):
        Server(viewer, "127.0.0.1", int(port))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:1", "http://127.0.0.1"])
def test_a_request_from_another_page_is_refused(client: Client, origin: str) -> None:
    body = {"image": "he", "polygon": [[0, 0], [9, 0], [9, 9]]}
    assert client("measure", body, headers={"Origin": origin}).status == 403


def test_a_request_from_the_page_is_answered(client: Client) -> None:
    headers = {"Origin": f"http://{client.host}"}
    assert client("look", {"image": "he", "tiles": []}, headers=headers).status == 200


def test_requests_are_bounded(client: Client) -> None:
    assert client("look", b" " * (MOST_BYTES + 1)).status == 413
    assert client("look", b"{}", headers={"Content-Length": "many"}).status == 400  # refused by the protocol


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    assert client("scene.json", method=method).status == 405


@pytest.mark.parametrize(
    "path",
    [
        "static/../server.py",
        "static/%2e%2e/server.py",
        "static/..%2fserver.py",
        "static//etc/passwd",
        "tiles/../0/0_0",
        "tiles/he/0/../../../etc/passwd",
        "overlays/..%2f..%2fsecret",
    ],
)
def test_no_path_leads_to_a_file(client: Client, path: str) -> None:
    answer = client(path)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "tiles/he/99/0_0",
        "tiles/he/0/999_0",
        "tiles/he/0/-1_0",
        "tiles/he/0/1",
        "tiles/none/0/0_0",
        "probe?x=1",
        "probe?x=nan&y=1",
    ],
)
def test_a_wrong_place_is_told(client: Client, path: str) -> None:
    assert client(path).status == 400


@pytest.mark.parametrize(
    "body",
    [
        *(b"[", b"3", b"[" * 100_000),
        *({"image": "he", "tiles": tiles} for tiles in ([[0, 0]] * 2000, [[-1, 0]], [[0]], [[0.5, 1]], "all", None)),
    ],
)
def test_a_wrong_request_is_told(client: Client, body: object) -> None:
    assert client("look", body).status == 400


@pytest.mark.parametrize("last", [None, ["a", 2], [float("inf"), 2], [1, 2, 3], [[1], [2]]])
def test_a_wrong_polygon_is_told(client: Client, last: object) -> None:
    assert client("measure", {"image": "he", "polygon": [[0, 0], [1, 1], last]}).status == 400
    assert client("measure", {"image": "he", "polygon": last}).status == 400


def test_every_answer_forbids_what_the_page_does_not_need(client: Client) -> None:
    headers = client("").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
