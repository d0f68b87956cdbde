"""Object stores on this machine, each a server process of its own: moto for s3://, an emulator for gs://."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from connectors import storage
from connectors.storage_clients import OPTIONS, set_options

BUCKET = "winnow-tests"
MISSING = [name for name in ("boto3", "moto", "gcp_storage_emulator") if find_spec(name) is None]


@dataclass(frozen=True)
class Stores:
    """Two servers that run.

    Attributes:
        s3_port: Where moto listens.
        flags: Beam options that reach it.
    """

    s3_port: int
    flags: tuple[str, ...]

    def use(self) -> None:
        """Points Beam's filesystems in this process at the servers."""
        set_options(self.flags)


@contextmanager
def running_stores(folder: Path) -> Iterator[Stores]:
    """Starts both servers, with an empty bucket each, and sets what clients read of the environment.

    Args:
        folder: Where the credentials go.
    """
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}: pip install -e '.[cloud-test]'")
    s3, gs = _free_port(), _free_port()
    servers = [
        _start("-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3)),
        _start("-c", _EMULATOR, str(gs)),
    ]
    with pytest.MonkeyPatch.context() as patch, _serving(_Tokens) as tokens:
        for name, value in (
            (OPTIONS, "[]"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{gs}"),
            ("GOOGLE_APPLICATION_CREDENTIALS", _credentials(folder, tokens)),
        ):
            patch.setenv(name, value)
        try:
            for port in (s3, gs):
                _wait_for(port)
            _ask(s3, "PUT", f"/{BUCKET}")
            stores = Stores(s3, (f"--s3_endpoint_url=http://127.0.0.1:{s3}",))
            stores.use()
            yield stores
        finally:
            for server in servers:
                server.kill()
                server.wait()


_EMULATOR = f"""
import sys, time
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="{BUCKET}").start()
time.sleep(1e6)
"""


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(300):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no server came up on port {port}")


def _ask(port: int, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    connection.getresponse().read()
    connection.close()


def _credentials(folder: Path, tokens: int) -> str:
    """A key that no one honours: without one Beam looks for credentials for half a minute in each process."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    known = {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "test",
        "private_key": text,
        "client_email": "",  # of an account with a name more would be asked, and not of this machine
        "token_uri": f"http://127.0.0.1:{tokens}/token",
    }
    path = folder / "credentials.json"
    path.write_text(json.dumps(known), "utf-8")
    return str(path)


class _Tokens(BaseHTTPRequestHandler):
    """Changes any key for a token."""

    def do_POST(self) -> None:  # noqa: N802 - a name that http.server calls
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps({"access_token": "test", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serves on a free port in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def content(place: str) -> dict[str, str]:
    """SHA-256 of every file right inside the output folders of a run in a store."""
    found = {}
    for folder in ("train", "dropped", "bad_rows", "scores"):
        for name in storage.file_names(f"{place}/{folder}"):
            path = storage.fetched(f"{place}/{folder}/{name}")
            found[f"{folder}/{name}"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found


@contextmanager
def flaky(port: int, share: float, seed: int = 0) -> Iterator[tuple[int, list[str]]]:
    """A proxy in front of a server that fails some requests: an error, no answer, or an answer that is lost.

    Args:
        port: Of the server.
        share: Of the requests that fail.
        seed: Of the choice.

    Yields:
        The port of the proxy, and what it did wrong so far.
    """
    draw, failures, lock = random.Random(seed), list[str](), threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            with lock:
                fails = draw.random() < share
                how = draw.choice(("error", "no answer", "lost answer")) if fails else ""
                if fails:
                    failures.append(f"{how}: {self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if how == "error":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if how == "no answer":
                self.close_connection = True
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if how == "lost answer":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (
                    "transfer-encoding",
                    "connection",
                    "date",
                    "server",
                    "content-length",
                ):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815 - names that http.server calls

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with _serving(Proxy) as proxy:
        yield proxy, failures


def environment() -> dict[str, str]:
    """The environment for a command that reaches the servers."""
    root = Path(__file__).resolve().parents[1]
    return {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
