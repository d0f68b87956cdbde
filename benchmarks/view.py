"""Seconds that the page of `winnow view` waits for its answers, over HTTP, and the memory of the server.

    python -m benchmarks.instructions DATA --rows 1000000
    winnow run benchmarks/view.yaml --output OUT --set inputs.0.path=DATA
    taskset -c 0,1 python -m benchmarks.view OUT --repeats 3

Each repeat is a process of its own, so that nothing is kept from the one before; the fastest time is given.
"""

from __future__ import annotations

import argparse
import http.client
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

NOWHERE = "zebra crossing"  # no row of benchmarks/instructions.py holds it


def main() -> None:
    """Prints the table."""
    options = _options()
    if options.one:
        print(json.dumps(dict(measure(options.out))))
        return
    command = [sys.executable, "-m", "benchmarks.view", options.out, "--one"]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(options.repeats)
    ]
    for name in runs[0]:
        print(f"| {name} | {min(run[name] for run in runs):,.2f} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(out: str) -> Iterator[tuple[str, float]]:
    """Seconds of each question, in the order in which a person may ask, and the peak of memory in MB."""
    began = time.monotonic()
    from pipelines.view.server import HOST, open_server

    with open_server(out, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(page: str) -> Any:  # noqa: ANN401 - any JSON
            connection = http.client.HTTPConnection(HOST, server.server_port)
            connection.request("GET", f"/{server.token}/{page}")
            body = connection.getresponse().read()
            connection.close()
            return json.loads(body) if page.startswith("api/") else body

        first = ask("api/rows")
        yield "first page, from the start of Python", time.monotonic() - began
        copy = ask("api/rows?part=dropped&kind=near")["rows"][0]["key"]
        column = next(iter(first["rows"][0]["numbers"]), "weight")
        for name, page in {
            "another page": "api/rows?page=9000",
            "another reason": "api/rows?kind=exact",
            "sorted by a number": f"api/rows?sort={column}&desc=1",
            "shuffled": "api/rows?sort=shuffle",
            "part of an id": "api/rows?id=0000123",
            "an open row, the first": f"api/row?row={quote(copy)}",
            "its duplicates and rivals, the first": f"api/relatives?row={quote(copy)}",
            "an open row": f"api/row?row={quote(first['rows'][0]['key'])}",
            "its duplicates and rivals": f"api/relatives?row={quote(first['rows'][0]['key'])}",
            "dropped rows as CSV": "rows.csv?part=dropped",
        }.items():
            began = time.monotonic()
            ask(page)
            yield name, time.monotonic() - began
        began = time.monotonic()
        while not ask(f"api/rows?text={quote(NOWHERE)}")["done"]:
            pass
        yield "a text that no row holds", time.monotonic() - began
        server.shutdown()
    yield "peak MB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
