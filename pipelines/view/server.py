"""The local server of `winnow view`: one page, its rows as JSON, and nothing else.

It listens on this machine alone. What other programs and pages of the machine could do is kept out: an
address without the secret token, a request under another host name (which a page of the web could point
here), every method but GET. The page may load nothing from elsewhere and run no script but its own, and no
part of a request is ever the name of a file.
"""

from __future__ import annotations

import errno
import hmac
import secrets
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import jinja2
import orjson

from connectors.manifest import MANIFEST
from connectors.storage import file_version, is_remote, join
from pipelines.view.facts import relatives, row_facts, run_facts, token_pieces
from pipelines.view.index import RunIndex
from pipelines.view.query import Query, parse_query
from pipelines.view.rows import Format, Rows

HOST = "127.0.0.1"
PORT = 8765  # the first that is tried
MOST_FIELDS = 100  # of an address
IDLE_SECONDS = 60.0
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SCRIPT = "text/javascript; charset=utf-8"
STATIC = {"view.css": "text/css; charset=utf-8"} | dict.fromkeys(
    ("view.js", "address.js", "filters.js", "row.js", "text.js"), SCRIPT
)
DOWNLOADS: dict[str, tuple[Format, str]] = {
    "rows.csv": ("csv", "text/csv; charset=utf-8"),
    "rows.jsonl": ("jsonl", "application/x-ndjson"),
}
Fields = Mapping[str, list[str]]


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    Attributes:
        kind: Content type.
        body: Bytes, or pieces of them.
        status: HTTP status.
        file: Name under which a browser saves it; "" for what it shows.
        place: Where a browser is sent instead; "" for an answer that is one.
    """

    kind: str
    body: bytes | Iterator[bytes]
    status: HTTPStatus = HTTPStatus.OK
    file: str = ""
    place: str = ""


class NotFound(ValueError):  # noqa: N818 - reads as what happened
    """There is no such page or row."""


class View:
    """The pages of one run.

    Args:
        out: Output folder of a finished run.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, out: str) -> None:
        self.out = out
        self._lock = threading.Lock()
        self._version = self._manifest_version()
        self._rows = Rows(RunIndex(out))

    def answer(self, page: str, fields: Fields) -> Answer:
        """The answer to a request.

        Args:
            page: What of the address stands behind the token.
            fields: The fields of the address.

        Raises:
            ValueError: If a field has no meaning here.
            NotFound: If there is no such page or row.
        """
        if page == "":
            return Answer("text/html; charset=utf-8", self._page)
        if page in STATIC:
            return Answer(STATIC[page], self._static[page])
        if page in DOWNLOADS:
            format_name, kind = DOWNLOADS[page]
            return Answer(kind, self.rows.download(parse_query(fields), format_name), file=f"winnow-{page}")
        if page not in self._data:
            raise NotFound("there is no such page")
        return Answer("application/json", orjson.dumps(self._data[page](fields)))

    @property
    def rows(self) -> Rows:
        """The rows of the run as it is now: read again when another run has put its files there."""
        version = self._manifest_version()
        with self._lock:
            if version != self._version:
                self._rows, self._version = Rows(RunIndex(self.out)), version
            return self._rows

    def _manifest_version(self) -> tuple[int, float] | None:
        """What tells a run from one that replaced it; None in a store, which it would cost to ask."""
        if is_remote(self.out):
            return None
        try:
            return file_version(join(self.out, MANIFEST))
        except FileNotFoundError:
            return None  # RunIndex says what is missing

    @cached_property
    def _data(self) -> dict[str, Callable[[Fields], dict[str, Any]]]:
        return {
            "api/run": lambda _: run_facts(self.rows),
            "api/rows": self._list,
            "api/row": lambda fields: row_facts(self.rows, self._position(fields)),
            "api/relatives": lambda fields: relatives(self.rows, self._position(fields)),
            "api/tokens": lambda fields: token_pieces(self.rows, self._position(fields)),
        }

    def _list(self, fields: Fields) -> dict[str, Any]:
        number = fields.get("page", ["1"])[0]
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"page={number!r}: wanted a number")
        return self.rows.page(parse_query(fields), int(number[:9]))

    def _position(self, fields: Fields) -> int:
        key = fields.get("row", [""])[0]
        position = self.rows.index.position_of(key)
        if position is None:
            raise NotFound(f"no row of this run has the id {key[:200]!r}")
        return position

    @cached_property
    def _static(self) -> dict[str, bytes]:
        return {name: Path(__file__).with_name(name).read_bytes() for name in STATIC}

    @cached_property
    def _page(self) -> bytes:
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text("utf-8"))
        return template.render(name=self._rows.index.manifest.get("name") or "Run", out=self.out).encode()


class ViewServer(ThreadingHTTPServer):
    """Serves a run on this machine.

    Args:
        view: What is served.
        port: Where; 0 chooses a free port.

    Attributes:
        token: The secret part of its address.

    Raises:
        OSError: If the port is in use.
    """

    daemon_threads = True

    def __init__(self, view: View, port: int) -> None:
        self.view = view
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOST, port), Handler)

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver has it
        """Says nothing of a browser that went away, which it does whenever a newer question replaces one."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Checks a request, then asks the view."""

    server_version, sys_version = "winnow", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answers a request."""
        self._send(self._answer())

    def parse_request(self) -> bool:
        """Reads a request; answers what is not a GET, as nothing here can be changed."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self._send(_words(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET: nothing can be changed here."))
        return self.command == "GET"

    def end_headers(self) -> None:
        """Ends every answer's headers, those of errors too, with what a browser may do with it."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _answer(self) -> Answer:
        server = cast(ViewServer, self.server)
        if self.headers.get("Host") not in (
            f"{HOST}:{server.server_port}",
            f"localhost:{server.server_port}",
        ):
            return _words(HTTPStatus.FORBIDDEN, "This server answers only under the address that it printed.")
        try:
            address = urlsplit(self.path)
            fields = parse_qs(address.query, max_num_fields=MOST_FIELDS)
        except ValueError:
            return _words(HTTPStatus.BAD_REQUEST, "The address cannot be read.")
        _, token, page = [*address.path.split("/", 2), "", ""][:3]
        if not hmac.compare_digest(token.encode(), server.token.encode()):
            return _words(
                HTTPStatus.FORBIDDEN,
                "Open the address that `winnow view` printed: its token is missing or wrong.",
            )
        if address.path == f"/{token}":  # what the page loads is named relative to a folder
            return replace(_words(HTTPStatus.PERMANENT_REDIRECT, "Here:"), place=f"/{token}/")
        try:
            return server.view.answer(page, fields)
        except NotFound as error:
            return _error(HTTPStatus.NOT_FOUND, error)
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, one question must not end the server
            # The browser would wait for ever; the server goes on, and prints where it went wrong.
            self.log_error("%s", f"{page[:200]!r}: {type(error).__name__}: {error}")
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, error)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if answer.file:
            self.send_header("Content-Disposition", f'attachment; filename="{answer.file}"')
        if answer.place:
            self.send_header("Location", answer.place)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        body = [answer.body] if isinstance(answer.body, bytes) else answer.body
        if isinstance(answer.body, bytes):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        for piece in body:
            self.wfile.write(piece)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing: the addresses hold the token."""


def _words(status: HTTPStatus, text: str) -> Answer:
    return Answer("text/plain; charset=utf-8", f"{text}\n".encode(), status)


def _error(status: HTTPStatus, error: Exception) -> Answer:
    return Answer("application/json", orjson.dumps({"error": str(error)}), status)


def open_server(out: str, port: int | None = None) -> ViewServer:
    """A server of a run that is ready to answer.

    Args:
        out: Output folder of a finished run.
        port: Where it listens; None takes PORT, or any other if that is in use.

    Raises:
        ValueError: If there is no finished run, or the port is in use.
    """
    view = View(out)
    wanted = PORT if port is None else port
    try:
        return ViewServer(view, wanted)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        if port is None:
            return ViewServer(view, 0)
        why = "is in use" if error.errno == errno.EADDRINUSE else "may not be used without more rights"
        raise ValueError(f"--port {port} {why}; leave it out to take a free one") from error


def serve(out: str, port: int | None, say: Callable[[str], None], *, in_browser: bool) -> None:
    """Serves a run until Ctrl-C.

    Args:
        out: Output folder of a finished run.
        port: See `open_server`.
        say: Takes lines for the user.
        in_browser: Whether to open the page in the user's browser.

    Raises:
        ValueError: As `open_server`.
    """
    if is_remote(out):
        say(f"Fetching the rows of {out} to this machine ...")
    with open_server(out, port) as server, suppress(KeyboardInterrupt):
        counts = server.view.rows.index.manifest["counts"]
        say(f"{out}: {counts['kept']:,} kept, {counts['dropped']:,} dropped, {counts['bad']:,} bad rows")
        warming = threading.Thread(target=_warm, args=(server.view.rows,), daemon=True)
        warming.start()
        say(f"Open {server.address}\nCtrl-C ends it.")
        with tempfile.TemporaryDirectory(prefix="winnow-view-") as folder:
            if in_browser:
                open_browser(server.address, Path(folder))
            try:
                server.serve_forever()
            finally:
                warming.join()  # Arrow may crash a process that ends while it reads
    say("\nEnded. Nothing was changed.")


def _warm(rows: Rows) -> None:
    """Reads what the first answers need while the browser starts; what goes wrong, the answers say."""
    with suppress(OSError, ValueError):
        rows.page(Query())
        if not is_remote(rows.index.out):  # where it would fetch all that the run read
            _ = rows.texts.whole


def open_browser(address: str, folder: Path) -> None:
    """Opens an address in the user's browser, if there is one with a window.

    The browser is given a file that leads there: what a program is started with, other users of a machine can
    see, and the address holds the token.
    """
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if isinstance(browser, webbrowser.GenericBrowser) and not isinstance(
        browser, webbrowser.BackgroundBrowser
    ):
        return  # one of text, which would take the terminal
    file = folder / "open.html"  # of a folder that only this user may read
    file.write_text(f'<!doctype html><meta http-equiv="refresh" content="0;url={address}">', "utf-8")
    threading.Thread(target=browser.open, args=(file.as_uri(),), daemon=True).start()
