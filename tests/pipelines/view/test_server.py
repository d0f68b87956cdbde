"""What the server answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pipelines.view.server import HOST, View, ViewServer, open_browser, open_server
from tests.pipelines.view.run import make_view_run

ROOT = Path(__file__).resolve().parents[3]


def ask(
    server: ViewServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request; `path` as it is sent."""
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def data(server: ViewServer, page: str) -> Any:  # noqa: ANN401 - any JSON
    status, _, body = ask(server, f"/{server.token}/{page}")
    return status, json.loads(body)


def test_the_page_and_what_it_loads_are_served(server: ViewServer) -> None:
    status, headers, body = ask(server, f"/{server.token}/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<script>alert(1)" not in body  # the run's name
    for name in ("view.css", "view.js", "address.js", "filters.js", "row.js", "text.js"):
        assert ask(server, f"/{server.token}/{name}")[0] == 200
    assert data(server, "api/run")[1]["parts"]["suspect"] == 3
    assert data(server, "api/rows?part=kept&page=2")[1]["page"] == 2
    key = quote(data(server, "api/rows?part=dropped")[1]["rows"][0]["key"])
    assert data(server, f"api/row?row={key}")[1]["part"] == "dropped"
    assert data(server, f"api/relatives?row={key}")[0] == 200


def test_every_answer_forbids_what_a_browser_need_not_do(server: ViewServer) -> None:
    token = server.token
    for path, method in ((f"/{token}/", "GET"), (f"/{token}/api/rows", "GET"), ("/", "GET"), ("/", "POST")):
        headers = ask(server, path, method)[1]
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}", "[::1]:{port}", ""],
)
def test_another_host_name_is_refused(server: ViewServer, host: str) -> None:
    status, _, body = ask(server, f"/{server.token}/", Host=host.format(port=server.server_port))
    assert status == 403
    assert b"winnow view" not in body


def test_an_address_without_its_last_slash_leads_to_the_page(server: ViewServer) -> None:
    status, headers, _ = ask(server, f"/{server.token}")
    assert (status, headers["location"]) == (308, f"/{server.token}/")


def test_localhost_is_this_machine_too(server: ViewServer) -> None:
    assert ask(server, f"/{server.token}/", Host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("path", ["/", "", "/x/", "/{half}/", "/{token}x/", "/api/rows", "/?token={token}"])
def test_a_wrong_or_missing_token_is_refused(server: ViewServer, path: str) -> None:
    wanted = path.format(token=server.token, half=server.token[:16])
    status, _, body = ask(server, wanted or "/")
    assert status == 403
    assert server.token.encode() not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "FOO"])
def test_only_get_is_answered(server: ViewServer, method: str) -> None:
    status, headers, _ = ask(server, f"/{server.token}/api/rows", method)
    assert (status, headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path",
    [
        "../manifest.json", "..%2fmanifest.json", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "server.py",
        "page.html.j2", "view.js/", "api/", "api/_list", "./view.css", "view.css%00.js",
    ],
)  # fmt: skip
def test_no_path_is_ever_the_name_of_a_file(server: ViewServer, path: str) -> None:
    status, body = data(server, path)
    assert (status, body) == (404, {"error": "there is no such page"})


@pytest.mark.parametrize(
    ("page", "status", "words"),
    [
        ("api/rows?page=-1", 400, "page='-1'"),
        ("api/rows?page=%D9%A1", 400, "wanted a number"),
        ("api/rows?part=x", 400, "part='x'"),
        ("api/row?row=nothing", 404, "no row of this run has the id 'nothing'"),
        ("api/row", 404, "has the id ''"),
        ("rows.csv?sort=nothing", 400, "'nothing'"),
    ],
)
def test_a_wrong_question_gets_a_sentence(server: ViewServer, page: str, status: int, words: str) -> None:
    answered, said = data(server, page)
    assert answered == status
    assert words in said["error"]


def test_too_many_fields_are_refused(server: ViewServer) -> None:
    assert ask(server, f"/{server.token}/api/rows?" + "&".join(["source=a"] * 101))[0] == 400


@pytest.mark.parametrize(
    ("name", "kind"), [("rows.csv", "text/csv; charset=utf-8"), ("rows.jsonl", "application/x-ndjson")]
)
def test_rows_can_be_downloaded(server: ViewServer, name: str, kind: str) -> None:
    status, headers, body = ask(server, f"/{server.token}/{name}?part=bad")
    assert (status, headers["content-type"]) == (200, kind)
    assert headers["content-disposition"] == f'attachment; filename="winnow-{name}"'
    assert len(body.splitlines()) == 10 + (name == "rows.csv")


def test_a_fault_is_said_and_the_server_goes_on(
    server: ViewServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a disk failed")

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.view.rows.Rows.page", broken)
        assert data(server, "api/rows") == (500, {"error": "a disk failed"})
    said = capsys.readouterr().err
    assert "RuntimeError: a disk failed" in said
    assert server.token not in said
    assert data(server, "api/rows")[0] == 200


def test_a_browser_that_went_away_is_no_fault(server: ViewServer, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with socket.create_connection((HOST, server.server_port)) as connection:
            lines = (f"GET /{server.token}/rows.csv HTTP/1.0", f"Host: {HOST}:{server.server_port}", "", "")
            connection.sendall("\r\n".join(lines).encode())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert data(server, "api/rows")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_that_replaced_the_one_that_was_opened_is_shown(tmp_path: Path) -> None:
    out = make_view_run(tmp_path / "out", 60)
    view = View(str(out))
    assert json.loads(bytes(view.answer("api/run", {}).body))["parts"][""] == 60  # type: ignore[arg-type]  # bytes
    (out / "manifest.json").rename(tmp_path / "away.json")
    with pytest.raises(ValueError, match="no finished run"):
        view.answer("api/run", {})
    make_view_run(tmp_path / "again", 90)
    out.rename(tmp_path / "old")
    (tmp_path / "again").rename(out)
    assert json.loads(bytes(view.answer("api/run", {}).body))["parts"][""] == 90  # type: ignore[arg-type]  # bytes


def test_a_port_in_use_is_refused_and_another_taken_when_none_was_named(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port} is in use"):
            open_server(str(out), port)
        monkeypatch.setattr("pipelines.view.server.PORT", port)
        with open_server(str(out)) as server:
            assert server.server_port != port


def test_it_listens_on_this_machine_alone(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_browser_is_started_without_the_token_in_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, done = [], threading.Event()

    class Browser:
        def open(self, address: str) -> None:
            opened.append(address)
            done.set()

    monkeypatch.setattr("webbrowser.get", Browser)
    open_browser("http://127.0.0.1:1/secret/", tmp_path)
    assert done.wait(10)
    assert "secret" not in opened[0]
    assert "secret" in (tmp_path / "open.html").read_text()


def test_ctrl_c_ends_the_command_with_a_sentence(out: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "view", str(out), "--no-open"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said, failed = process.communicate(timeout=60)
    assert "bad rows" in first
    assert second.startswith("Open http://127.0.0.1:")
    assert (process.returncode, failed) == (0, "")
    assert "Ended. Nothing was changed." in said


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "view", str(tmp_path), "--no-open"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert "no finished run is here" in done.stderr
