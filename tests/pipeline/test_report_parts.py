"""Parts of reports: which items are shown, and the server on loopback."""

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.report_server import Server, serve
from pipeline.report_thumbs import choose_items
from storage.errors import WorkspaceError


def test_the_worst_come_first_and_what_is_not_known_last() -> None:
    """All of them, where there is room for all."""
    assert list(choose_items([0.1, None, 0.9, 0.5, None], 5)) == [2, 3, 0, 1, 4]


def test_where_not_all_fit_half_are_the_worst_and_half_are_spread() -> None:
    """None comes twice, and the other half is from all over the set."""
    badness = [number / 1000 for number in range(1000)]
    chosen = list(choose_items(badness, 100))
    assert len(set(chosen)) == 100
    assert chosen[:50] == list(range(999, 949, -1))
    others = sorted(chosen[50:])
    gaps = np.diff(others)
    assert (gaps.min(), gaps.max()) == (19, 19)
    assert list(choose_items(badness, 0)) == []
    assert list(choose_items(badness, 1)) == [999]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of a folder beside which a secret lies."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "page/data").mkdir(parents=True)
    (tmp_path / "page/index.html").write_text("the page")
    with serve(tmp_path / "page") as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def get(server: Server, path: str, host: str | None = None) -> tuple[int, bytes]:
    """Status and content of an answer; `host` is the name under which the server is asked."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=300)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_server_is_on_loopback_and_serves_its_folder_alone(server: Server) -> None:
    """No file beside the folder, no list of files, and no page of another name that leads here."""
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"
    assert get(server, "/") == (200, b"the page")
    assert get(server, "/index.html", f"localhost:{server.server_port}")[0] == 200
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/data/", "/data/../../secret.txt"):
        status, content = get(server, path)
        assert status == 404
        assert b"secret" not in content.replace(b"secret.txt", b"")
    assert get(server, "/", "evil.example")[0] == 403


def test_a_port_that_is_taken_is_told(server: Server, tmp_path: Path) -> None:
    """With what to do."""
    with pytest.raises(WorkspaceError, match="another --port"):
        serve(tmp_path, server.server_port)
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.1", server.server_port)) == 0
