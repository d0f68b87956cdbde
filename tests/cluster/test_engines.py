from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.corpus import write_corpus
from tests.cluster.engines import EngineFailed, Processes, free_port, listens

_SERVE = (
    "import socket, subprocess, sys, time;"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "server = socket.create_server(('127.0.0.1', int(sys.argv[1])));"
    "time.sleep(60)"
)


def test_processes_and_their_children_end_with_the_block_though_it_fails(tmp_path: Path) -> None:
    port = free_port()
    family: list[psutil.Process] = []

    def fail_while_they_run() -> None:
        with Processes(tmp_path) as processes:
            processes.start("server", [sys.executable, "-c", _SERVE, str(port)])
            processes.wait_until("server", lambda: listens(port))
            family.extend(psutil.Process(processes.running["server"].pid).children(recursive=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_they_run()
    assert family
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert not listens(port)


def test_an_engine_that_ends_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("engine", [sys.executable, "-c", "raise SystemExit('no memory left')"])
        with pytest.raises(EngineFailed, match="engine ended with 1:\nno memory left"):
            processes.wait_until("engine", lambda: False)


def test_the_corpus_is_the_same_each_time(tmp_path: Path) -> None:
    assert write_corpus(tmp_path / "one", 500, 100) == write_corpus(tmp_path / "two", 500, 100) == 502
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
