"""Runs to view, made once, and a server of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.view.index import RunIndex
from pipelines.view.rows import Rows
from pipelines.view.server import ViewServer, open_server
from tests.pipelines.view.run import make_view_run


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that it read."""
    return make_view_run(tmp_path_factory.mktemp("view") / "out")


@pytest.fixture(scope="session")
def rows(out: Path) -> Rows:
    """The rows of that run; answers are kept from test to test, as from question to question."""
    return Rows(RunIndex(str(out)))


@pytest.fixture(scope="session")
def bare_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of a run whose work was deleted."""
    return Rows(RunIndex(str(make_view_run(tmp_path_factory.mktemp("view") / "out", work=False))))


@pytest.fixture(scope="session")
def server(out: Path) -> Iterator[ViewServer]:
    """A server of that run on a free port."""
    with open_server(str(out), 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
