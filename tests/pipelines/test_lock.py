"""One run at a time in an output folder of an object store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors import storage
from pipelines import lock
from pipelines.lock import StoreLock
from pipelines.recipe import RecipeError
from tests.stores import BUCKET, Stores, running_stores


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with running_stores(tmp_path_factory.mktemp("credentials")) as running:
        yield running


@pytest.fixture(params=["s3", "gs"])
def folder(request: pytest.FixtureRequest, stores: Stores) -> str:
    """A work folder of its own in each store."""
    return f"{request.param}://{BUCKET}/{request.node.name.split('[')[0]}/.winnow"


def names(folder: str) -> list[str]:
    return [name for name in storage.file_names(folder) if name.startswith("lock-")]


def test_a_second_run_is_refused_until_the_first_one_ends(folder: str) -> None:
    first, second = StoreLock(folder), StoreLock(folder)
    first.acquire()
    with pytest.raises(RecipeError, match=r"another winnow run is writing here \(process \d+ on "):
        second.acquire()
    assert names(folder) == [first.name]
    first.check()
    first.release()
    third = StoreLock(folder)
    third.acquire()
    third.release()
    assert names(folder) == []


def test_of_two_that_ask_at_once_exactly_one_goes_on(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOOK_AGAIN_SECONDS", 0.05)
    both = threading.Barrier(2)
    locks, refused = [StoreLock(folder), StoreLock(folder)], list[str]()

    def take(own: StoreLock) -> None:
        both.wait()
        try:
            own.acquire()
        except RecipeError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take, args=(own,)) for own in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    held = [own for own in locks if own.name in names(folder)]
    assert len(held) == 1
    held[0].release()


def test_the_lock_of_a_killed_process_of_this_machine_does_not_hold(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = StoreLock(folder)
    monkeypatch.setattr(lock, "_this_process", lambda: {**_real(), "pid": 2**22 + 1})
    killed._write("holding")
    monkeypatch.undo()
    own = StoreLock(folder)
    own.acquire()
    assert names(folder) == [own.name]
    own.release()


_real = lock._this_process


def test_a_lock_of_another_machine_holds_until_it_was_not_refreshed_for_long(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_this_process", lambda: {**_real(), "host": "elsewhere"})
    other = StoreLock(folder)
    other._write("holding")
    monkeypatch.undo()
    with pytest.raises(RecipeError, match=r"on elsewhere; if it was killed, its lock ends after 90 s"):
        StoreLock(folder).acquire()
    time.sleep(2.1)  # one store dates its files to the second
    patient = StoreLock(folder, stale=1.0)
    patient.acquire()
    assert names(folder) == [patient.name]
    patient.release()


def test_a_lock_is_refreshed_while_it_is_held(folder: str) -> None:
    own = StoreLock(folder, refresh=0.1, stale=5.0)
    own.acquire()
    first = own._written
    time.sleep(0.6)
    assert own._written > first
    own.check()
    own.release()


def test_a_run_that_lost_the_store_for_long_does_not_publish(folder: str) -> None:
    own = StoreLock(folder)
    own._written = time.monotonic() - 100
    with pytest.raises(RuntimeError, match="took no word from this run for 100 s"):
        own.check()


def test_a_lock_says_what_it_is(folder: str) -> None:
    own = StoreLock(folder)
    own.acquire()
    said = json.loads(storage.read_text(f"{folder}/{own.name}"))
    assert said["state"] == "holding"
    assert {"host", "pid", "began", "processes"} <= said.keys()
    own.release()


def test_a_disk_keeps_no_lock_files_but_one(tmp_path: Path) -> None:
    with lock._locked_file(tmp_path / "work"):
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["lock"]
        with pytest.raises(RecipeError, match="another winnow run"), lock._locked_file(tmp_path / "work"):
            pass
